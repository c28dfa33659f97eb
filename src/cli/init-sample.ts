// The sample of data that `hadal init` writes: enough to see a run work, far too little to learn from.
const documents = [
  'A fox came to a river that was too wide to jump. It walked along the bank until noon and found a fallen tree. The fox crossed, looked back once, and never told the other foxes how it had got over.',
  'To make bread, mix flour, water, salt and a little yeast. Let the dough rest until it has doubled. Fold it, shape it, let it rise again, and bake it in a hot oven until the crust sounds hollow.',
  'The lighthouse keeper counted ships the way other people count sheep. On foggy nights there were none to count, and so she stayed awake.',
  'Rain falls on the hills, runs into streams, and the streams run into rivers. The rivers carry it to the sea. The sun lifts it out again, and the wind brings it back to the hills.',
  'A clock in the station had stopped at ten past four. Nobody mended it, because twice a day it was right, and the trains were late anyway.',
  'Ants find the shortest way to sugar without a map. Each ant leaves a scent where it walks; short ways are walked more often, so their scent grows stronger, and more ants follow it.',
  'My grandmother kept buttons in a tin. Every button had a coat once, she said, and every coat had a winter. We sorted them by colour and made up the winters.',
  'The library lends umbrellas now. They come back wet and on time, which is more than the librarian can say of the books.',
  'When the moon stands between the earth and the sun, its shadow crosses the land. Birds fall silent, street lamps wake up, and for a few minutes the day forgets itself.',
  'Two snails raced across a garden path. The first stopped to look at a daisy, the second stopped to wait for the first. In the morning they were both at the daisy, and both said that they had won.',
  'A good knot holds when it is pulled and opens when it is asked. Learn three of them and you can tie a boat, a parcel and a shoe.',
  'The baker wrote down the first words of his parrot: more bread. The last words of the parrot, many years later, were the same, and the baker wrote them down again.',
  'Glass is made of sand. It is melted in a furnace, gathered on a pipe, blown, turned, and cut. While it is hot it moves like honey; when it is cold it forgets that it ever moved.',
  'There was a village where everyone borrowed the same ladder. It was never at home, and so nobody knew whose it was, and so nobody minded.',
  'Bees dance to tell the others where the flowers are. The angle of the dance is the angle to the sun, and the length of the dance is the length of the way.',
  'On Tuesdays the ferry carries goats. The captain says that they are better passengers than people: they pay no less attention to the safety speech, and they never ask when we arrive.',
];

/** The sample as JSON lines with a field `text`. */
export function sampleText(): string {
  return documents.map((text) => `${JSON.stringify({ text })}\n`).join('');
}
