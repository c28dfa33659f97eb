// Trains the tokenizer that make-goldens.py reads: node test/data/make-trained-tokenizer.mjs DIR (after a build)
import { mkdir } from 'node:fs/promises';
import { saveTokenizer, trainTokenizer } from '../../dist/data/train-tokenizer.js';

const dir = process.argv[2];
const mixed = new URL('./mixed.txt', import.meta.url).pathname;
await mkdir(dir, { recursive: true });
await saveTokenizer(dir, await trainTokenizer({ sources: ['synthetic', mixed], vocabSize: 700 }));
