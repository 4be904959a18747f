import { accessSync, constants, existsSync, mkdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { invalid, LearndError } from '../base/errors.ts';
import type { LinearKind } from '../learn/training/trainables.ts';

export const METHODS = ['auto', 'full', 'lora', 'norms', 'bias', 'head'] as const;
export const OBJECTIVES = ['next_token', 'instruct', 'classify', 'preference'] as const;

/** As given on the command line; what is absent is decided from model and data. */
export interface TrainOptions {
  readonly model: string;
  readonly file: string;
  readonly method: (typeof METHODS)[number];
  readonly epsilon: string;
  readonly objective?: (typeof OBJECTIVES)[number];
  readonly delta?: number;
  readonly steps?: number;
  readonly batch?: number;
  readonly sequence?: number;
  readonly rank?: number;
  readonly targets?: string;
  readonly layers?: number;
  readonly rate?: number;
  readonly ema?: number;
  /** Variants of each example, which count with it as one; `true`: so many as a round has. */
  readonly augment?: number | true;
  readonly user?: string;
  readonly text?: string;
  readonly label?: string;
  /** Labels that may be predicted: public, so better named than taken from the file. */
  readonly labels?: string;
  readonly holdout?: string;
  readonly minutes?: number;
  readonly checkpointEvery?: number;
  readonly out?: string;
  readonly resume?: string;
}

const SHORT: Readonly<Record<string, readonly LinearKind[]>> = {
  q: ['self_attn.q_proj'],
  k: ['self_attn.k_proj'],
  v: ['self_attn.v_proj'],
  o: ['self_attn.o_proj'],
  gate: ['mlp.gate_proj'],
  up: ['mlp.up_proj'],
  down: ['mlp.down_proj'],
  attention: ['self_attn.q_proj', 'self_attn.k_proj', 'self_attn.v_proj', 'self_attn.o_proj'],
  mlp: ['mlp.gate_proj', 'mlp.up_proj', 'mlp.down_proj'],
};

/** `q,v` or `attention,mlp`. */
export function targetsOf(text: string | undefined): readonly LinearKind[] | undefined {
  if (text === undefined) return undefined;
  const names = text.split(',').map(name => name.trim().replace(/_proj$/, ''));
  const unknown = names.find(name => SHORT[name] === undefined);
  if (unknown !== undefined)
    throw invalid('targets', `"${unknown}" is no linear layer: name some of ${Object.keys(SHORT).join(', ')}`);
  return [...new Set(names.flatMap(name => SHORT[name]!))];
}

/** Variants of each example; undefined: none. */
export const variantsOf = ({ augment }: Pick<TrainOptions, 'augment'>, usual: number): number | undefined =>
  augment === true ? usual : augment;

/** null: without noise. */
export const epsilonOf = (options: Pick<TrainOptions, 'epsilon'>): number | null => {
  if (options.epsilon === 'none') return null;
  const epsilon = Number(options.epsilon);
  if (options.epsilon.trim() !== '' && epsilon > 0 && Number.isFinite(epsilon)) return epsilon;
  throw invalid('epsilon', `epsilon must be a number above 0, or none; it is "${options.epsilon}"`);
};

export const deltaOf = (options: Pick<TrainOptions, 'delta'>): number => {
  const delta = options.delta ?? 1e-6;
  if (delta > 0 && delta < 1) return delta;
  throw invalid('delta', `delta must lie between 0 and 1; it is ${delta}`);
};

/** Everything that can be seen from the options alone. @throws LearndError('invalid') naming the option */
export function checkOptions(options: TrainOptions): void {
  for (const name of ['model', 'file', 'epsilon'] as const)
    if (options[name] === undefined) throw invalid(name, `--${name} is needed to begin a training`);
  epsilonOf(options);
  deltaOf(options);
  targetsOf(options.targets);
  const least = { steps: 1, batch: 1, sequence: 2, rank: 1, layers: 1, checkpointEvery: 1 } as const;
  for (const [name, lowest] of Object.entries(least)) {
    const value = options[name as keyof typeof least];
    if (value !== undefined && value < lowest) throw invalid(name, `${name} must be at least ${lowest}, not ${value}`);
  }
  for (const name of ['minutes', 'rate'] as const) {
    const value = options[name];
    if (value !== undefined && !(value > 0 || (name === 'minutes' && value === 0 && options.resume !== undefined)))
      throw invalid(name, `${name} must be above 0, not ${value}`);
  }
  const { ema, method, label, objective, augment } = options;
  if (ema !== undefined && !(ema >= 0 && ema < 1)) throw invalid('ema', `ema must lie from 0 to below 1, not ${ema}`);
  if (typeof augment === 'number' && !(augment >= 1 && augment <= 16))
    throw invalid('augment', `so many variants of an example must be from 1 to 16, not ${augment}`);
  if (augment !== undefined && objective === 'preference')
    throw invalid(
      'augment',
      'a preference or rating judges the answer to that very prompt, and nobody has judged a variant of it',
    );
  if (method === 'head' && label === undefined)
    throw invalid('label', 'a head is trained on labels: name their column with --label');
  const given = (names: readonly (keyof TrainOptions)[], allowed: readonly string[], of: string) => {
    const name = names.find(n => options[n] !== undefined);
    if (name !== undefined && !allowed.includes(method))
      throw invalid(name, `--${name} belongs to ${of}, not to --method ${method}`);
  };
  given(['rank', 'targets'], ['lora', 'auto'], 'LoRA');
  given(['layers'], ['lora', 'norms', 'auto'], 'LoRA and norm scales');
  given(['labels', 'holdout'], ['head', 'auto'], 'heads');
  if (objective !== undefined && objective !== 'next_token' && (method === 'head' || method === 'bias'))
    throw invalid('objective', `--objective ${objective} does not go with --method ${method}`);
}

/** The folder is made, and a file can be written in it. @throws LearndError('invalid') naming `out` */
export function checkOut(out: string): void {
  try {
    mkdirSync(out, { recursive: true });
    if (!statSync(out).isDirectory()) throw new Error('it is a file');
    accessSync(out, constants.W_OK);
    const probe = join(out, `.probe-${process.pid}`);
    writeFileSync(probe, '');
    rmSync(probe);
  } catch (cause) {
    throw invalid('out', `cannot write into ${out}: ${(cause as Error).message}`, { cause });
  }
}

/** The options of the training that waits in a folder, with what may be changed when it goes on. */
export function resumedOptions(stored: TrainOptions, given: TrainOptions): TrainOptions {
  const free = new Set<string>(['resume', 'minutes', 'json', 'checkpointEvery']);
  for (const [name, value] of Object.entries(given)) {
    if (free.has(name) || value === undefined || (name === 'method' && value === 'auto')) continue;
    if (value !== stored[name as keyof TrainOptions])
      throw new LearndError('invalid', `--${name} cannot be changed when a training goes on`, {
        field: name,
        hint: 'Give --resume alone, with --minutes where it may take longer.',
      });
  }
  const { minutes, checkpointEvery } = given;
  return {
    ...stored,
    ...(given.resume !== undefined && { resume: given.resume }),
    ...(minutes !== undefined && { minutes }),
    ...(checkpointEvery !== undefined && { checkpointEvery }),
  };
}

/** `--resume DIR`: the folder of the results, or the checkpoint's own. */
export function checkpointFolder(dir: string): string {
  const inside = join(dir, 'checkpoint');
  return existsSync(inside) ? inside : dir;
}
