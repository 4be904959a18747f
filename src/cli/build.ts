import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { asLearndError, invalid, LearndError } from '../base/errors.ts';
import { quantizeType } from '../learn/compress/quantize.ts';
import { sha256OfFile, textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { type Build, readBuild } from './build-config.ts';
import { evaluateModel, type StageEvaluation } from './build-evaluate.ts';
import { placeFinal, type Stage, type StageOutput, stagesOf } from './build-stages.ts';
import { short, table } from './frame.ts';

export interface BuiltStage {
  readonly stage: string;
  /** Nothing that decides it has changed since it was done. */
  readonly skipped: boolean;
  readonly seconds: number;
  readonly facts: Readonly<Record<string, unknown>>;
  readonly evaluation: StageEvaluation | null;
}

export interface Built {
  readonly out: string;
  /** What `base:` of a deployment is given. */
  readonly model: string;
  readonly sha256: string;
  readonly stages: readonly BuiltStage[];
}

/** What is known of a stage that was done. */
interface Done extends StageOutput {
  /** Of its configuration, its inputs, and the output of the stage before. */
  readonly key: string;
  readonly sha256: string;
  readonly seconds: number;
  readonly evaluation?: { readonly key: string; readonly result: StageEvaluation };
}

type Record_ = Readonly<Record<string, Done>>;

/** Raised when what a stage makes of the same inputs changes. */
const FORMAT = 1;

/** `learnd build`: each stage whose inputs have changed, then the model it ends with. */
export async function run(options: { config: string }): Promise<Built> {
  const build = readBuild(resolve(options.config));
  if (build.quantize) quantizeType(build.quantize.type);
  const stages = stagesOf(build);
  for (const input of [...stages.flatMap(stage => stage.inputs), ...measured(build)])
    if (!existsSync(input)) throw invalid('config', `there is no ${input}`);
  mkdirSync(build.out, { recursive: true });
  const record = join(build.out, 'build.json');
  let known: Record_ = readRecord(record);
  const built: BuiltStage[] = [];
  const outputs = new Map<string, Done>();
  let before: Done | undefined;
  for (const [number, stage] of stages.entries()) {
    const label = `[${number + 1}/${stages.length}] ${stage.name}`;
    const key = await keyOf(stage, before, outputs, build);
    let done: Done | undefined = known[stage.name];
    const skipped = done !== undefined && done.key === key && (await stillThere(done));
    if (skipped) process.stderr.write(`${label}: unchanged\n`);
    else {
      process.stderr.write(`${label}\n`);
      const started = performance.now();
      const output = await carriedOut(stage, join(build.out, stage.name), key, before, outputs);
      const seconds = (performance.now() - started) / 1000;
      done = { ...output, key, sha256: await digest(output.output), seconds };
    }
    if (build.evaluate && stage.name !== 'tokenizer') done = await withEvaluation(done!, build.evaluate, label);
    known = { ...known, [stage.name]: done! };
    await writeAtomically(record, textChunk(`${JSON.stringify(known, null, 1)}\n`));
    outputs.set(stage.name, done!);
    before = done!;
    const { facts, seconds, evaluation } = done!;
    built.push({ stage: stage.name, skipped, seconds, facts, evaluation: evaluation?.result ?? null });
  }
  const model = join(build.out, 'model.gguf');
  if (!existsSync(model) || (await sha256OfFile(model)) !== before!.sha256) await placeFinal(before!.output, model);
  return { out: build.out, model, sha256: await sha256OfFile(model), stages: built };
}

const measured = ({ evaluate }: Pick<Build, 'evaluate'>): string[] =>
  [evaluate?.text, evaluate?.labels?.file, evaluate?.labels?.head, evaluate?.answers?.file].filter(
    file => file !== undefined,
  );

function readRecord(file: string): Record_ {
  if (!existsSync(file)) return {};
  try {
    return JSON.parse(readFileSync(file, 'utf8')) as Record_;
  } catch (cause) {
    throw new LearndError('corrupt', `${file} cannot be read: ${(cause as Error).message}`, {
      hint: 'Remove it: every stage is then done again.',
      cause,
    });
  }
}

async function keyOf(
  stage: Stage,
  before: Done | undefined,
  outputs: ReadonlyMap<string, Done>,
  build: Build,
): Promise<string> {
  const hash = createHash('sha256').update(JSON.stringify([FORMAT, stage.name, stage.config, before?.sha256 ?? '']));
  for (const input of stage.inputs) hash.update(`\n${await digest(input)}`);
  // The teacher is a stage further back than the one before.
  if (stage.name === 'distill' && build.distill?.teacher === undefined)
    for (const done of outputs.values()) hash.update(`\n${done.sha256}`);
  return hash.digest('hex');
}

const stillThere = async (done: Done): Promise<boolean> =>
  existsSync(done.output) && (await digest(done.output)) === done.sha256;

/** sha256 of a file, or of a folder's files. */
async function digest(path: string): Promise<string> {
  if (!statSync(path).isDirectory()) return await sha256OfFile(path);
  const hash = createHash('sha256');
  for (const name of readdirSync(path).sort())
    if (statSync(join(path, name)).isFile()) hash.update(`${name} ${await sha256OfFile(join(path, name))}\n`);
  return hash.digest('hex');
}

/** In its folder. What another configuration or other inputs have left there is removed; an interrupted run goes on. */
async function carriedOut(
  stage: Stage,
  folder: string,
  key: string,
  before: Done | undefined,
  outputs: ReadonlyMap<string, Done>,
): Promise<StageOutput> {
  const mark = join(folder, '.key');
  if (!existsSync(mark) || readFileSync(mark, 'utf8') !== key) rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder, { recursive: true });
  writeFileSync(mark, key);
  try {
    return await stage.run({ folder, before: before?.output ?? '', of: name => outputs.get(name)!.output });
  } catch (thrown) {
    const error = asLearndError(thrown);
    throw new LearndError(error.code, `${stage.name}: ${error.message}`, {
      ...(error.field !== undefined && { field: error.field }),
      hint:
        error.code === 'canceled'
          ? 'Run the same command again: it goes on where it stopped.'
          : (error.hint ?? 'What was done before is kept.'),
      retriable: false,
      cause: thrown,
    });
  }
}

async function withEvaluation(done: Done, wanted: NonNullable<Build['evaluate']>, label: string): Promise<Done> {
  const hash = createHash('sha256').update(JSON.stringify([FORMAT, wanted, done.sha256]));
  for (const file of measured({ evaluate: wanted })) hash.update(await digest(file));
  const key = hash.digest('hex');
  if (done.evaluation?.key === key) return done;
  process.stderr.write(`${label}: evaluating\n`);
  return { ...done, evaluation: { key, result: await evaluateModel(done.output, wanted) } };
}

const COLUMNS = [
  ['size_mb', 'MB'],
  ['perplexity', 'perplexity'],
  ['weighted_f1', 'F1'],
  ['head_f1', 'F1 (head)'],
  ['rouge_l', 'ROUGE-L'],
  ['response_ms_p50', 'p50 ms'],
  ['tokens_per_second', 'tokens/s'],
  ['error_rate', 'errors'],
] as const;

export const human = (r: Built): string => {
  const shown = COLUMNS.filter(([key]) => r.stages.some(({ evaluation }) => evaluation?.[key] !== undefined));
  return [
    table([
      ['stage', 'seconds', ...shown.map(([, name]) => name)],
      ...r.stages.map(({ stage, skipped, seconds, evaluation }) => [
        stage,
        skipped ? 'unchanged' : seconds.toFixed(1),
        ...shown.map(([key]) => short(evaluation?.[key])),
      ]),
    ]),
    r.model,
    `serve it: base: ${r.model} in config/learnd.yaml, then npx learnd start`,
  ].join('\n');
};
