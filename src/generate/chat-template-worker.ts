// A process that renders one chat template: a request as JSON on stdin, an answer as JSON on stdout. Its whole memory is
// limited, which within a thread would end the process that the thread belongs to.
import { text } from 'node:stream/consumers';
import { createContext, runInContext } from 'node:vm';
import { Template } from '@huggingface/jinja';
import type { TemplateAnswer, TemplateRequest } from './chat-template.js';

/** Only in case that nobody is there any more to end this process. */
const timeout = 10_000;

function answerTo({ template, variables, mostChars }: TemplateRequest): TemplateAnswer {
  try {
    const context = createContext({ render: () => new Template(template).render(variables) });
    const rendered = runInContext('render()', context, { timeout }) as string;
    if (rendered.length <= mostChars) return { text: rendered };
    return { error: `${rendered.length} characters, of which ${mostChars} are allowed` };
  } catch (error) {
    return { error: (error as Error).message };
  }
}

const request = JSON.parse(await text(process.stdin)) as TemplateRequest;
process.stdout.write('\n'); // from now on the time counts
process.stdout.write(JSON.stringify(answerTo(request)));
