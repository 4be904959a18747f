import { statSync } from 'node:fs';
import { prune as cut } from '../learn/compress/prune.ts';
import { quantizeModel } from '../learn/compress/quantize.ts';
import { writeModelGguf } from '../learn/model/export.ts';
import { openModel } from '../learn/model/open.ts';
import { PUBLIC_SENTENCES } from '../learn/training/public-text.ts';
import { modelPath } from './model-path.ts';
import { ensureNative } from './native.ts';
import { textLines } from './text-lines.ts';

/** `model prune` and `model quantize`: what rounds do, outside the daemon. */

export interface Compressed {
  readonly out: string;
  readonly sha256: string;
  readonly size_mb: number;
  readonly size_mb_before: number;
  readonly parameters?: number;
  readonly parameters_before?: number;
  readonly notes: readonly string[];
}

const megabytes = (bytes: number): number => Math.round(bytes / 1e4) / 100;

/** Calibrated on public text: a file of the caller's, or the sentences that ship with learnd. */
export async function prune(options: {
  model: string;
  ffn?: number;
  dropLayers?: number;
  calibration?: string;
  out: string;
}): Promise<Compressed> {
  const path = await modelPath(options.model);
  const checkpoint = await openModel(path);
  const texts = options.calibration === undefined ? PUBLIC_SENTENCES : textLines(options.calibration);
  ensureNative();
  const { loadEngineModel } = await import('../learn/model/engine/model.ts');
  const { activationStatistics } = await import('../learn/model/engine/score.ts');
  const engine = loadEngineModel(checkpoint);
  const statistics = activationStatistics(
    engine,
    texts.map(text => checkpoint.tokenizer.encode(text)),
  );
  engine.dispose();
  const importance = {
    ffn: statistics.ffn.map(scores => Float32Array.from(scores)),
    blockInfluence: Float32Array.from(statistics.influence),
  };
  const pruned = cut(checkpoint, importance, { ffn: options.ffn, dropLayers: options.dropLayers });
  const parts = { ...checkpoint, config: pruned.config, weights: pruned.weights };
  const written = await writeModelGguf(parts, options.out, { type: 'keep', source: checkpoint });
  return {
    out: options.out,
    sha256: written.sha256,
    size_mb: megabytes(written.bytes),
    size_mb_before: megabytes(statSync(path).size),
    parameters: pruned.parameters[1],
    parameters_before: pruned.parameters[0],
    notes: written.notes,
  };
}

export async function quantize(options: { model: string; type: string; out: string }): Promise<Compressed> {
  const path = await modelPath(options.model);
  const checkpoint = await openModel(path);
  const written = await quantizeModel(checkpoint, options.out, { type: options.type, source: checkpoint });
  return {
    out: options.out,
    sha256: written.sha256,
    size_mb: megabytes(written.bytes),
    size_mb_before: megabytes(statSync(path).size),
    notes: written.notes,
  };
}
