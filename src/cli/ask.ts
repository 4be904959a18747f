import type { DaemonClient } from './client.ts';

export interface Asked {
  readonly text: string;
  readonly model: string;
  readonly response_id: string;
}

export async function run(options: { prompt: string; model?: string }, client: DaemonClient): Promise<Asked> {
  const answer = (await client.post('/v1/responses', { model: options.model, input: options.prompt })) as {
    id: string;
    model: string;
    output: { content?: { type: string; text?: string }[] }[];
  };
  const text = answer.output
    .flatMap(item => item.content ?? [])
    .map(part => part.text ?? '')
    .join('');
  return { text, model: answer.model, response_id: answer.id };
}

export const human = (result: Asked): string => `${result.text}\n\n(${result.model}, ${result.response_id})`;
