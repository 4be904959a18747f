/**
 * The state of a training between two steps, in one safetensors file: parameters trained, the optimizer's moments, the running
 * average of iterates, the step, and the ledger position (what the steps taken have released). Together with the seed, from which
 * every step's sample and noise follow, the steps after it are replayed bit for bit: the same release again, not a second one.
 * The seed itself is not in the file (`seal.ts` keeps it); what is there is noised already, unless `losses` are asked for.
 */
import { createHash } from 'node:crypto';
import { rm } from 'node:fs/promises';
import { LearndError } from '../../base/errors.ts';
import { SafetensorsFile } from '../model/formats/safetensors-read.ts';
import { writeSafetensorsFile } from '../model/formats/safetensors-write.ts';
import type { HostTensor, WeightSource } from '../model/types.ts';
import type { Mechanism, PlanState } from '../privacy/index.ts';
import { type Tensor, tensorflow } from '../tensor/backend.ts';
import type { RunningAverage } from './average.ts';
import type { Optimizer, Parameters } from './optimizer.ts';

export interface CheckpointSettings {
  /** The state file; replaced as a whole, mode 0600. */
  readonly path: string;
  /** After every so many steps, and after so many seconds (default 60), whichever comes first; writing takes at most 5% of the time. */
  readonly everySteps?: number;
  readonly everySeconds?: number;
  /** Keep the steps' losses in it. Of private training they are NOT covered by the noise: only where the file is as secret as the data. */
  readonly losses?: boolean;
  /** Told once the state after this step is durable. */
  readonly onSaved?: (step: number) => unknown;
}

/** What a state file holds beside tensors. */
export interface TrainingState {
  /** Steps taken. */
  readonly step: number;
  /** Since it began, without what lay between an end and going on; and in steps alone. */
  readonly seconds: number;
  readonly stepSeconds: number;
  readonly tokens: number;
  readonly losses: readonly (number | undefined)[];
  /** What these steps have released: empty without privacy. */
  readonly released: readonly Mechanism[];
  /** Of the terms beside the data's own gradient (`Beside.state`). */
  readonly beside?: readonly number[];
  /** Where the plan's adaptive bound stands (`DpPlan.state`). */
  readonly plan?: PlanState;
  /** Of the request: a state is taken up only by the same training. */
  readonly fingerprint: string;
}

/** What is saved and restored. */
export interface Resumable {
  readonly parameters: Parameters;
  readonly optimizer: Optimizer;
  readonly average: RunningAverage | undefined;
}

const VERSION = '1';

interface Header extends Omit<TrainingState, 'losses'> {
  readonly losses: readonly (number | null)[];
  readonly optimizerSteps: number;
}

/** sha256 of what decides a training: equal requests replay equally. */
export function fingerprintOf(...parts: readonly (string | ArrayBufferView)[]): string {
  const hash = createHash('sha256');
  for (const part of parts) {
    const bytes =
      typeof part === 'string' ? Buffer.from(part) : Buffer.from(part.buffer, part.byteOffset, part.byteLength);
    hash.update(`${bytes.length}:`).update(bytes);
  }
  return hash.digest('hex');
}

/** Writes the state atomically. */
export async function saveState(path: string, of: Resumable, state: TrainingState): Promise<void> {
  const tensors = new Map<string, Tensor>();
  for (const key of of.parameters.keys()) tensors.set(`parameter:${key}`, of.parameters.get(key));
  const { steps: optimizerSteps, tensors: moments } = of.optimizer.state();
  for (const [name, tensor] of moments) tensors.set(`optimizer:${name}`, tensor);
  for (const [key, tensor] of of.average?.tensors ?? []) tensors.set(`average:${key}`, tensor);
  const header: Header = { ...state, losses: state.losses.map(loss => loss ?? null), optimizerSteps };
  await writeSafetensorsFile(path, sourceOf(tensors), 'f32', {
    metadata: { learnd_checkpoint: VERSION, state: JSON.stringify(header) },
    mode: 0o600,
  });
}

/** One tensor at a time comes to the JavaScript side. */
const sourceOf = (tensors: ReadonlyMap<string, Tensor>): WeightSource => ({
  names: () => [...tensors.keys()],
  shape: name => tensors.get(name)!.shape,
  read: name => ({ shape: tensors.get(name)!.shape, data: tensors.get(name)!.dataSync() as Float32Array }),
});

/** Reads the header alone. @throws LearndError('not_found'), ('corrupt') */
export function readState(path: string): TrainingState {
  return parse(new SafetensorsFile(path)).state;
}

function parse(file: SafetensorsFile): { state: TrainingState; optimizerSteps: number } {
  const { learnd_checkpoint: version, state } = file.metadata;
  if (version !== VERSION || state === undefined)
    throw new LearndError('corrupt', `${file.path} is no checkpoint of a training that this version can go on with`);
  const { optimizerSteps, losses, ...rest } = JSON.parse(state) as Header;
  return { state: { ...rest, losses: losses.map(loss => loss ?? undefined) }, optimizerSteps };
}

/**
 * Puts a saved state into place.
 * @throws LearndError('conflict') when it belongs to another training, 'corrupt' when a tensor is missing
 */
export function restoreState(path: string, into: Resumable, fingerprint: string): TrainingState {
  const file = new SafetensorsFile(path);
  const { state, optimizerSteps } = parse(file);
  if (state.fingerprint !== fingerprint)
    throw new LearndError('conflict', `the checkpoint ${path} belongs to another training`, {
      hint: 'Data, model, method, seed and privacy plan must be those it began with; or begin anew elsewhere.',
      retriable: false,
    });
  const tf = tensorflow();
  const under = (prefix: string): Map<string, HostTensor> =>
    new Map(
      [...file.tensors]
        .filter(([name]) => name.startsWith(prefix))
        .map(([name, { shape }]) => [name.slice(prefix.length), { shape, data: file.float(name) }]),
    );
  for (const key of into.parameters.keys()) {
    const name = `parameter:${key}`;
    const shape = file.tensors.get(name)?.shape ?? [];
    into.parameters.set(key, tf.keep(tf.tensor(file.float(name), [...shape])));
  }
  into.optimizer.restore({ steps: optimizerSteps, tensors: under('optimizer:') });
  into.average?.restore(under('average:'), state.step);
  return state;
}

/** When the next state is due: by steps, by time, and never so often that writing takes more than a twentieth of the time. */
export class CheckpointClock {
  readonly #settings: CheckpointSettings;
  #last: number;
  #cost = 0;
  #step: number;

  constructor(settings: CheckpointSettings, step: number, now: number) {
    this.#settings = settings;
    this.#step = step;
    this.#last = now;
  }

  due(step: number, now: number): boolean {
    const { everySteps = Number.POSITIVE_INFINITY, everySeconds = 60 } = this.#settings;
    if (step - this.#step >= everySteps) return true;
    return now - this.#last >= Math.max(everySeconds, 20 * this.#cost);
  }

  saved(step: number, from: number, to: number): void {
    this.#step = step;
    this.#last = to;
    this.#cost = to - from;
  }
}

export const removeState = (path: string): Promise<void> => rm(path, { force: true });
