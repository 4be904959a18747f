import { randomBytes } from 'node:crypto';
import { existsSync, readdirSync, statSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { LearndError } from '../base/errors.ts';
import { sha256OfFile } from '../learn/model/formats/atomic-file.ts';
import { SEED_BYTES } from '../learn/privacy/noise.ts';
import { isSealed, type Sealed, unseal } from '../learn/training/seal.ts';
import { modelPath } from './model-path.ts';
import type { Begun, Trained, TrainJob } from './train-job.ts';
import { checkOptions, checkOut, checkpointFolder, resumedOptions, type TrainOptions } from './train-options.ts';

export type { Trained } from './train-job.ts';
export type { TrainOptions } from './train-options.ts';

/** `learnd train`: begins a training, or goes on with one that was interrupted. */
export async function run(given: TrainOptions): Promise<Trained> {
  const job = given.resume === undefined ? await begin(given) : await goOn(given, given.resume);
  if (job.options.method === 'head' || (job.options.method === 'auto' && isLabelled(job.options)))
    return await (await import('./train-head.ts')).trainHead(job);
  return await (await import('./train-text.ts')).trainText(job);
}

/** `auto` on labelled rows trains a head, unless the objective says what the labels are for. */
const isLabelled = ({ label, objective }: TrainOptions): boolean => label !== undefined && objective === undefined;

async function begin(given: TrainOptions): Promise<TrainJob> {
  checkOptions(given);
  const out = resolve(given.out ?? 'trained');
  checkOut(out);
  const folder = join(out, 'checkpoint');
  if (isSealed(folder))
    throw new LearndError('conflict', `${out} holds a training that has not ended`, {
      field: 'out',
      hint: `Go on with it: learnd train --resume ${out}; or remove ${folder}.`,
      retriable: false,
    });
  const file = resolve(given.file);
  const model = resolve(await modelPath(given.model));
  const options = { ...given, file, model, out };
  return {
    options,
    seed: randomBytes(SEED_BYTES),
    folder,
    data: await digestOf(file, 'file'),
    model: await digestOf(model, 'model'),
    begun: undefined,
  };
}

async function goOn(given: TrainOptions, dir: string): Promise<TrainJob> {
  const folder = checkpointFolder(resolve(dir));
  const { seed, request }: Sealed<Begun> = unseal<Begun>(folder);
  const options = resumedOptions(request.options, given) as TrainJob['options'];
  checkOptions(options);
  checkOut(options.out);
  const data = await digestOf(options.file, 'file');
  const model = await digestOf(options.model, 'model');
  for (const [name, now, then] of [
    ['file', data, request.data],
    ['model', model, request.model],
  ] as const)
    if (now !== then)
      throw new LearndError('conflict', `${options[name]} is not what it was when this training began`, {
        field: name,
        hint: 'Put it back: with other data or weights the same noise would be used twice.',
        retriable: false,
      });
  return { options, seed, folder, data, model, begun: request };
}

/** sha256 of a file, or of the files in a model's folder. */
async function digestOf(path: string, field: string): Promise<string> {
  if (!existsSync(path)) throw new LearndError('not_found', `there is no ${path}`, { field, retriable: false });
  if (!statSync(path).isDirectory()) return await sha256OfFile(path);
  const parts: string[] = [];
  for (const name of readdirSync(path).sort())
    if (statSync(join(path, name)).isFile()) parts.push(`${name} ${await sha256OfFile(join(path, name))}`);
  return parts.join('\n');
}
