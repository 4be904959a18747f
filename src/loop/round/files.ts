import { mkdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import type { Blob, VersionFiles, VersionManifest } from '../../learn/model/version.ts';
import type { WrittenBlob } from '../../learn/worker/types.ts';
import type { Artifacts } from '../../store/artifacts.ts';

/** The round's scratch folder: weights on their way into the artifacts store. No private text is ever written there. */
export async function freshFolder(data: string, round: number): Promise<string> {
  const folder = folderOf(data, round);
  await rm(folder, { recursive: true, force: true });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  return folder;
}

export const folderOf = (data: string, round: number): string => join(data, 'rounds', String(round));

export const removeFolder = (data: string, round: number): Promise<void> =>
  rm(folderOf(data, round), { recursive: true, force: true });

/**
 * Where trainings keep their state between attempts, apart from what each attempt writes anew. What is there is noised already and
 * nobody reads it but the next attempt.
 */
export async function checkpointFolder(data: string, round: number): Promise<string> {
  const folder = join(data, 'rounds', `${round}.checkpoints`);
  await mkdir(folder, { recursive: true, mode: 0o700 });
  return folder;
}

export const removeCheckpoints = (data: string, round: number): Promise<void> =>
  rm(join(data, 'rounds', `${round}.checkpoints`), { recursive: true, force: true });

/** Moves a file a worker wrote into the store. */
export async function keep(artifacts: Artifacts, written: WrittenBlob, ext: string): Promise<Blob> {
  const blob = await artifacts.put(written.path, ext);
  await rm(written.path, { force: true });
  return blob;
}

/** The language model of a manifest, as engines open it. */
export async function languageFiles(
  artifacts: Artifacts,
  manifest: Pick<VersionManifest, 'model' | 'adapter' | 'logit_bias'>,
): Promise<Pick<VersionFiles, 'model' | 'adapter' | 'logitBias'>> {
  const { model, adapter, logit_bias } = manifest;
  return {
    model: await artifacts.path(model),
    ...(adapter && { adapter: { path: await artifacts.path(adapter), scale: adapter.scale } }),
    ...(logit_bias && {
      logitBias: JSON.parse(await readFile(await artifacts.path(logit_bias), 'utf8')) as Array<[number, number]>,
    }),
  };
}

export async function headFiles(artifacts: Artifacts, manifest: VersionManifest): Promise<VersionFiles['heads']> {
  const heads: Record<string, VersionFiles['heads'][string]> = {};
  for (const [task, head] of Object.entries(manifest.heads))
    heads[task] = {
      file: await artifacts.path(head),
      features: await artifacts.path(head.features),
      layer: head.layer,
      labels: head.labels,
    };
  return heads;
}
