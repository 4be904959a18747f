/** What the trainings of a round have in common. */
import { join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import type { VersionManifest } from '../../learn/model/version.ts';
import { PRIVATE_LAYERS, PRIVATE_RANK } from '../../learn/training/auto.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { DocumentsTrained, NoiseInput, StepMethod } from '../../learn/worker/types.ts';
import type { RoundRow } from '../../store/rounds.ts';
import type { VersionRow } from '../../store/versions.ts';
import type { CanaryRecord } from './canary-record.ts';
import { keep, languageFiles } from './files.ts';
import type { Compute, RoundPorts } from './ports.ts';
import type { Noise, TextTraining, Trained } from './work.ts';

/** Rank of an adapter trained without noise, on all blocks. */
const PUBLIC_RANK = 8;
/** Stacked adapters beyond this cost more to serve than merged weights. */
const MOST_RANK = 64;
export interface Context {
  readonly ports: RoundPorts;
  readonly round: RoundRow;
  readonly parent: VersionRow;
  readonly worker: Compute;
  readonly folder: string;
  /** For the state of this training between attempts. */
  readonly checkpoint: string;
  readonly call: CallOptions;
}

export interface Done {
  readonly manifest: VersionManifest;
  readonly trained: Trained;
  readonly notes?: readonly string[];
  /** Why there is nothing to publish of it. */
  readonly nothing?: string | undefined;
  /** Of the canary users of a private training. */
  readonly canaries?: readonly CanaryRecord[];
}

export const noiseInput = (noise: Noise): NoiseInput => {
  if (noise.seed === undefined) throw new LearndError('internal', 'a private training has lost its seed');
  return { ...noise, seed: noise.seed };
};

export const rankOf = (isPrivate: boolean): number => (isPrivate ? PRIVATE_RANK : PUBLIC_RANK);

export function stepMethod(kind: Exclude<TextTraining['kind'], 'bias'>, isPrivate: boolean): StepMethod {
  switch (kind) {
    case 'norms':
      return { kind, layers: PRIVATE_LAYERS };
    case 'lora':
      return { kind, rank: rankOf(isPrivate), ...(isPrivate && { layers: PRIVATE_LAYERS }) };
    case 'full':
      return { kind };
  }
}

/** The manifest with its adapter worked into the weights. */
export async function merged(
  { ports, worker, folder, call }: Pick<Context, 'ports' | 'worker' | 'folder' | 'call'>,
  manifest: VersionManifest,
): Promise<VersionManifest> {
  const result = await worker.call(
    'merge',
    { files: await languageFiles(ports.artifacts, manifest), out: join(folder, 'merged.gguf') },
    call,
  );
  const { adapter: _, ...rest } = manifest;
  const blob = await keep(ports.artifacts, result.file, 'gguf');
  return { ...rest, model: { ...blob, quantization: result.quantization, parameters: result.parameters } };
}

/** An adapter that cannot stay beside what comes is worked into the weights first. */
export async function adapterFits(
  context: Context,
  manifest: VersionManifest,
  kind: 'bias' | StepMethod['kind'],
  isPrivate: boolean,
): Promise<VersionManifest> {
  const tooMany = kind === 'lora' && (manifest.adapter?.rank ?? 0) + rankOf(isPrivate) > MOST_RANK;
  return manifest.adapter && (kind === 'full' || tooMany) ? await merged(context, manifest) : manifest;
}

/** The manifest with the files that a training wrote, moved into the store. */
export async function withFiles(
  { ports }: Pick<Context, 'ports'>,
  manifest: VersionManifest,
  { bias, adapter, model }: Pick<DocumentsTrained, 'bias' | 'adapter' | 'model'>,
): Promise<VersionManifest> {
  return {
    ...manifest,
    ...(model && {
      model: {
        ...(await keep(ports.artifacts, model.file, 'gguf')),
        ...{ quantization: model.quantization, parameters: model.parameters },
      },
    }),
    ...(adapter && {
      adapter: { ...(await keep(ports.artifacts, adapter.file, 'gguf')), scale: 1, rank: adapter.rank },
    }),
    ...(bias && { logit_bias: await keep(ports.artifacts, bias.file, 'json') }),
  };
}
