import { join } from 'node:path';
import type { VersionManifest } from '../../learn/model/version.ts';
import { noiseMultiplier } from '../../learn/privacy/accountant.ts';
import { viewDocuments } from '../../store/round-rows.ts';
import { keep, languageFiles } from './files.ts';
import { seeded } from './plan-documents.ts';
import type { RoundPorts } from './ports.ts';
import { CALIBRATION_CLIP } from './recipes.ts';
import { type Context, type Done, noiseInput } from './train-parts.ts';
import type { CalibrationTraining, Compression } from './work.ts';

/** One forward pass over the view. */
const MINUTES = 20;

/** The release that a pruning on private documents needs, from public constants alone. */
export function calibrationTraining(
  { settings }: Pick<RoundPorts, 'settings'>,
  prune: NonNullable<Compression['prune']>,
  epsilon: number,
  delta: number,
): CalibrationTraining {
  const once = { sampleRate: 1, steps: 1, delta };
  const noise = seeded({
    noiseMultiplier: noiseMultiplier({ epsilon, ...once, prior: [] }),
    ...{ ...once, clip: CALIBRATION_CLIP, expectedUnits: settings.privacy.expected_users },
  });
  return { kind: 'calibration', minutes: MINUTES, noise, ...prune };
}

/** After all trainings of the round: its statistics are of the very weights that are pruned next. */
export async function calibrate(
  { ports, round, worker, folder, call }: Context,
  manifest: VersionManifest,
  { noise, ffn, dropLayers }: CalibrationTraining,
): Promise<Done> {
  const rows = await viewDocuments(ports.db, round.id);
  const { logitBias: _, ...files } = await languageFiles(ports.artifacts, manifest);
  const result = await worker.call(
    'calibrate',
    {
      files,
      documents: rows.map(({ unit, text }) => ({ unit, text })),
      noise: noiseInput(noise),
      ...(ffn !== undefined && { ffn }),
      ...(dropLayers !== undefined && { dropLayers }),
      threads: worker.threads,
      out: join(folder, 'calibration.safetensors'),
    },
    call,
  );
  const statistics = await keep(ports.artifacts, result.file, 'safetensors');
  const said = `calibration: ${result.units} units counted, ${Math.round(100 * result.kept)}% of their differences from public text stood out of the noise`;
  return {
    manifest,
    trained: { kind: 'calibration', steps: 1, seconds: result.seconds, statistics },
    notes: [said],
  };
}
