import type { Graph, Node, Value } from './graph.js';

const nameOf = (value: Value) => `%${value.node.id}${value.node.outputs.length > 1 ? `.${value.index}` : ''}`;

function printAttr(value: unknown): string {
  if (ArrayBuffer.isView(value)) return `<${value.byteLength} bytes>`;
  return JSON.stringify(value) ?? String(value);
}

/** One line: `%12: fp32 [2, 3] = matmul(%3, %7) {transposeB: true}  # model.layers.0`. */
export function printNode(node: Node): string {
  const outputs = node.outputs.map((output) => `${nameOf(output)}: ${output.type}`).join(', ');
  const inputs = node.inputs.map((input) => (input ? nameOf(input) : 'none')).join(', ');
  const attrs = Object.entries(node.attrs).map(([key, value]) => `${key}: ${printAttr(value)}`);
  const notes = [
    attrs.length > 0 ? `{${attrs.join(', ')}}` : '',
    node.predicate ? `if ${nameOf(node.predicate)}` : '',
    node.queue === 'compute' ? '' : `on ${node.queue}`,
    node.scope ? `# ${node.scope}` : '',
  ];
  return [`${outputs} = ${node.op.name}(${inputs})`, ...notes].filter(Boolean).join('  ');
}

/** The whole graph, a line a node, then what it updates and hands out. */
export function printGraph(graph: Graph): string {
  const ends = [
    ...[...graph.updates].map(([name, value]) => `update ${name} = ${nameOf(value)}`),
    ...[...graph.outputs].map(([name, value]) => `output ${name} = ${nameOf(value)}`),
  ];
  return [...graph.nodes.map(printNode), ...ends].join('\n');
}
