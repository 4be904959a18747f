import { LearndError } from '../../base/errors.ts';
import type { VersionManifest } from '../../learn/model/version.ts';
import { PUBLIC_SENTENCES } from '../../learn/training/public-text.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { Classification } from '../../learn/worker/types.ts';
import { headFiles, languageFiles } from './files.ts';
import type { Compute, RoundPorts } from './ports.ts';
import type { HeadTraining } from './work.ts';

/**
 * What was trained and what was stored must be the same model: the files are opened anew and scored on public sentences. A wrong
 * row order, a lost tensor or a rounded adapter shows here and not in front of users.
 */
const TOLERANCE = { nats: 2e-3, probability: 2e-3 } as const;
/** The sentences that the trainings report their figure on (learn/worker/jobs/text-training.ts). */
const SENTENCES = PUBLIC_SENTENCES.slice(0, 48);

export const failed = (what: string): LearndError =>
  new LearndError('corrupt', `the round's own check failed: ${what}`, { retriable: false });

export async function checkText(
  ports: RoundPorts,
  worker: Compute,
  manifest: VersionManifest,
  expected: number,
  call: CallOptions,
): Promise<void> {
  const files = await languageFiles(ports.artifacts, manifest);
  const scores = await worker.perplexity(files, SENTENCES, quiet(call));
  const found = scores.reduce((sum, s) => sum + s.nll, 0) / scores.reduce((sum, s) => sum + s.tokens, 0);
  if (!(Math.abs(found - expected) <= TOLERANCE.nats))
    throw failed(
      `the stored files give ${found.toFixed(5)} nats a token on public sentences, the trained weights gave ${expected.toFixed(5)}`,
    );
}

/** The served head (llama.cpp features, file read anew) against the one in memory. */
export async function checkHead(
  ports: RoundPorts,
  worker: Compute,
  manifest: VersionManifest,
  training: HeadTraining,
  expected: readonly Classification[],
  call: CallOptions,
): Promise<void> {
  const files = {
    ...(await languageFiles(ports.artifacts, manifest)),
    heads: await headFiles(ports.artifacts, manifest),
  };
  const texts = SENTENCES.slice(0, expected.length);
  const found = await worker.classify(files, training.task, training.labels, texts, quiet(call));
  for (const [i, { scores }] of expected.entries())
    for (const label of training.labels) {
      const difference = Math.abs((found[i]!.scores[label] ?? Number.NaN) - scores[label]!);
      if (!(difference <= TOLERANCE.probability))
        throw failed(`the stored head of ${training.task} differs by ${difference.toFixed(4)} in a probability`);
    }
}

/** A check's progress is not the training's. */
const quiet = ({ signal }: CallOptions): CallOptions => ({ signal });
