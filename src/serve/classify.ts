/** `POST /v1/classify`: by the version's head for the task where it has one, else by the language model scoring the label names. */

import type { z } from 'zod';
import { asLearndError, invalid } from '../base/errors.ts';
import { type Answering, leaseModel } from './answer.ts';
import { type ClassifyBody, parseBody } from './schemas.ts';

export interface Classification {
  readonly model: string;
  readonly results: ReadonlyArray<{ readonly label: string; readonly scores: Readonly<Record<string, number>> }>;
}

export async function classify(
  at: Answering,
  schema: z.ZodType<ClassifyBody>,
  body: unknown,
  signal: AbortSignal,
): Promise<Classification> {
  const request = parseBody(schema, body);
  const declared = at.ports.tasks().find(task => task.name === request.task);
  const labels = request.labels ?? declared?.labels;
  if (labels === undefined) {
    throw invalid('task', `task ${request.task} is not declared`, {
      hint: 'Declare it with its labels in the settings (tasks), or send "labels".',
    });
  }
  return at.admission.run(async () => {
    const lease = await leaseModel(at, request.model ?? undefined);
    const began = performance.now();
    const served = (error: string | undefined, cancelled: boolean) =>
      at.ports.onServed({
        kind: 'classify',
        version: lease.version,
        latencyMs: performance.now() - began,
        firstTokenMs: undefined,
        inputTokens: 0,
        outputTokens: 0,
        error,
        cancelled,
      });
    try {
      const { task, texts } = request;
      const result = await at.engine.call(
        'classify',
        { version: lease.version, task, texts, labels, declared: (request.labels ?? undefined) === undefined },
        { signal },
      );
      served(undefined, false);
      return { model: lease.version, results: result.probabilities.map(row => pick(result.labels, row)) };
    } catch (thrown) {
      const error = asLearndError(thrown);
      if (error.code !== 'invalid')
        served(error.code === 'canceled' ? undefined : error.code, error.code === 'canceled');
      throw error;
    } finally {
      lease.release();
    }
  });
}

function pick(labels: readonly string[], row: Float32Array): Classification['results'][number] {
  let best = 0;
  for (let i = 1; i < row.length; i++) if (row[i]! > row[best]!) best = i;
  return { label: labels[best]!, scores: Object.fromEntries(labels.map((label, i) => [label, row[i]!])) };
}
