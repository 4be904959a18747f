import assert from 'node:assert/strict';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import type { TestContext } from 'node:test';
import type { DocumentsInput, FeedbackInput, Jobs, NoiseInput, TextScore } from '../../src/learn/worker/types.ts';
import type { Compute, RoundPorts } from '../../src/loop/round/index.ts';
import { type RoundDeployment, roundDeployment } from './rounds.ts';

/** What a training was asked, with the noise of its steps where they have any. */
export type Asked<Input = DocumentsInput> = Input & { readonly noise: NoiseInput | undefined };
type Answer = Partial<Jobs['train-documents']['result']>;

export interface Pretend {
  /** Trainings on documents, in their order. */
  readonly asked: Asked[];
  /** Trainings on feedback. */
  readonly feedback: FeedbackInput[];
  /** What differs from a training that did all its steps and wrote a file; may throw. */
  answer: (input: Asked) => Answer | Promise<Answer>;
  /** Of texts under files; default: one nat each. */
  perplexity: (texts: readonly string[]) => readonly TextScore[];
  readonly worker: { -readonly [K in keyof Compute]: Compute[K] };
}

/** Of a text of one token. */
export const score = (nll: number): TextScore => ({ nll, tokens: 1, bytes: 1, first: null });

/** Rounds with a worker that only pretends to train, and an evaluation that says the same of every version. 12 documents of six users. */
export async function pretendDeployment(
  t: TestContext,
  options: { ports?: Partial<RoundPorts>; settings?: Record<string, unknown> } = {},
): Promise<{ d: RoundDeployment; pretend: Pretend }> {
  const written = async (folder: string, text: string) => {
    const path = join(folder, 'weights.gguf');
    await writeFile(path, text);
    return { file: { path, sha256: '', bytes: 0 }, quantization: 'f32', parameters: 1, notes: [] };
  };
  const done = { notes: [], outOfTime: false, seconds: 1, tokensPerSecond: 1, change: 1, check: 1 };
  const documents = async (given: DocumentsInput) => {
    const noise = given.steps?.noise;
    const input: Asked = { ...given, noise: noise === 'none' ? undefined : noise };
    pretend.asked.push(input);
    const steps = input.noise?.steps ?? (given.steps ? 30 : 0);
    const model = await written(given.folder, `weights ${pretend.asked.length}`);
    return { model, steps, ...done, ...(await pretend.answer(input)) };
  };
  const feedback = async (given: FeedbackInput) => {
    pretend.feedback.push(given);
    const model = await written(given.folder, `weights of feedback ${pretend.feedback.length}`);
    return { model, steps: given.noise.steps, ...done };
  };
  const pretend: Pretend = {
    asked: [],
    feedback: [],
    answer: () => ({}),
    perplexity: texts => texts.map(() => score(1)),
    worker: {
      threads: 1,
      call: (async (job: string, given: never) => {
        if (job === 'train-feedback') return await feedback(given);
        assert.equal(job, 'train-documents');
        return await documents(given);
      }) as Compute['call'],
      perplexity: async (_files, texts) => pretend.perplexity(texts),
      classify: async () => assert.fail('nothing is classified here'),
      close: async () => undefined,
    },
  };
  const card = {
    ...{ perplexity: 10, perplexity_standard_error: null, f1: null },
    ...{ parameters: 1, size_mb: 1, tokens_per_second: null },
  };
  const measured = { card, items: { documents: [], labels: [] } };
  const d = await roundDeployment(t, {
    settings: { 'privacy.expected_users': 10, ...options.settings },
    ports: {
      openWorker: () => pretend.worker,
      evaluate: async () => ({ champion: measured, candidate: measured }),
      ...options.ports,
    },
  });
  await d.document(Array.from({ length: 12 }, (_, i) => ({ user: `a${i % 6}`, text: `private text ${i}` })));
  return { d, pretend };
}
