/**
 * The seed of a training, sealed in a folder of its own: with it every step's sample and noise can be replayed after a crash, and
 * with it the noise could be taken off again. So it is written once, readable by its owner alone, before the first step, and
 * overwritten and removed when the training settles.
 */
import { createHmac } from 'node:crypto';
import { existsSync, readFileSync } from 'node:fs';
import { chmod, mkdir, open, rm, stat } from 'node:fs/promises';
import { dirname, join } from 'node:path';
import { LearndError } from '../../base/errors.ts';
import { syncFolder, textChunk, writeAtomically } from '../model/formats/atomic-file.ts';
import { SEED_BYTES } from '../privacy/noise.ts';

/** A training in a folder: what it was asked for and its seed; its state beside it once there is one. */
export interface Sealed<T> {
  readonly seed: Uint8Array;
  /** Whatever its maker needs to begin again with the same data, model and plan. */
  readonly request: T;
}

const SEAL = 'sealed.json';
export const statePath = (folder: string): string => join(folder, 'state.safetensors');
const sealPath = (folder: string): string => join(folder, SEAL);

export const isSealed = (folder: string): boolean => existsSync(sealPath(folder));

/** Begins: durable before it returns. @throws LearndError('conflict') where a training waits to be resumed */
export async function seal<T>(folder: string, sealed: Sealed<T>): Promise<void> {
  if (isSealed(folder))
    throw new LearndError('conflict', `${folder} holds the checkpoint of a training that has not ended`, {
      hint: `Go on with it (--resume), or remove the folder: what it has released so far is then spent for nothing.`,
      retriable: false,
    });
  await mkdir(folder, { recursive: true, mode: 0o700 });
  await chmod(folder, 0o700);
  const { seed, request } = sealed;
  const text = JSON.stringify({ version: 1, seed: Buffer.from(seed).toString('hex'), request });
  await writeAtomically(sealPath(folder), textChunk(`${text}\n`), 0o600);
  await syncFolder(dirname(folder));
}

/** @throws LearndError('not_found'), ('corrupt') */
export function unseal<T>(folder: string): Sealed<T> {
  if (!isSealed(folder))
    throw new LearndError('not_found', `there is no checkpoint in ${folder}`, {
      hint: 'Name the folder that the interrupted training told; one that ended has removed it.',
      retriable: false,
    });
  try {
    const { version, seed, request } = JSON.parse(readFileSync(sealPath(folder), 'utf8')) as {
      version: number;
      seed: string;
      request: T;
    };
    const bytes = Buffer.from(seed, 'hex');
    if (version === 1 && bytes.length === SEED_BYTES) return { seed: bytes, request };
  } catch (cause) {
    throw new LearndError('corrupt', `${sealPath(folder)} cannot be read: ${(cause as Error).message}`, { cause });
  }
  throw new LearndError('corrupt', `${sealPath(folder)} is not of this version`);
}

/** The training has settled: the seed is overwritten on the disk, then everything is removed. A second call finds nothing to do. */
export async function destroySeal(folder: string): Promise<void> {
  if (isSealed(folder)) {
    const { size } = await stat(sealPath(folder));
    const file = await open(sealPath(folder), 'r+');
    try {
      await file.write(new Uint8Array(size), 0, size, 0);
      await file.sync();
    } finally {
      await file.close();
    }
  }
  await rm(folder, { recursive: true, force: true });
}

/** A seed of its own for one part of a training: parts that shared one would share their noise. */
export const partSeed = (seed: Uint8Array, part: string): Uint8Array =>
  createHmac('sha256', seed).update(`part:${part}`).digest();
