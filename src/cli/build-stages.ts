import { copyFileSync, existsSync } from 'node:fs';
import { join } from 'node:path';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { tokenizerJson } from '../learn/model/tokenizer/hf-json.ts';
import { isSealed } from '../learn/training/seal.ts';
import type { Build } from './build-config.ts';
import { readDocuments } from './documents.ts';
import { modelPath } from './model-path.ts';

/** One stage of a build: what decides it, and how it is done. */
export interface Stage {
  /** Of its folder. */
  readonly name: string;
  /** Its part of the configuration, as far as it decides the outcome. */
  readonly config: unknown;
  /** Files it reads beside the stage before. */
  readonly inputs: readonly string[];
  /** Gives the model after it (the vocabulary, for a tokenizer) and what there is to tell. */
  run(work: StageWork): Promise<StageOutput>;
}

export interface StageWork {
  /** Its own folder; what an interrupted run left there is still there. */
  readonly folder: string;
  /** What the stage before gave; '' for the first. */
  readonly before: string;
  /** Output of a stage by name. */
  readonly of: (stage: string) => string;
}

export interface StageOutput {
  /** Path of the model after this stage. */
  readonly output: string;
  readonly facts: Readonly<Record<string, unknown>>;
}

/** snake_case keys of the configuration as the commands' own options; what only the build knows is left out. */
const options = (config: object, ...without: string[]): Record<string, unknown> =>
  Object.fromEntries(
    Object.entries(config)
      .filter(([key, value]) => value !== undefined && !without.includes(key))
      .map(([key, value]) => [key.replace(/_([a-z])/g, (_, letter: string) => letter.toUpperCase()), value]),
  );

/** A loss a step is long; its ends say what a table can hold. The whole is in loss.json. */
const ends = (loss: readonly (number | null)[]): Record<string, unknown> => ({
  first_loss: loss.find(value => value !== null) ?? null,
  last_loss: loss.findLast(value => value !== null) ?? null,
});

export function stagesOf(build: Build): Stage[] {
  const stages: Stage[] = build.base === undefined ? fromText(build) : [fromBase(build.base)];
  for (const one of build.finetunes) stages.push(finetune(one));
  const whole = stages.at(-1)!.name;
  if (build.prune) stages.push(prune(build.prune));
  if (build.distill) stages.push(distil(build.distill, whole, build.documents));
  if (build.quantize) stages.push(quantize(build.quantize));
  return stages;
}

function fromBase(base: string): Stage {
  return {
    name: 'base',
    config: { base },
    inputs: existsSync(base) ? [base] : [],
    run: async () => {
      const output = await modelPath(base);
      return { output, facts: { base } };
    },
  };
}

function fromText({ text, documents, tokenizer, pretrain }: Build): Stage[] {
  return [
    {
      name: 'tokenizer',
      config: { tokenizer, documents },
      inputs: text,
      run: async ({ folder }) => {
        const { trainVocabulary } = await import('../learn/build/vocabulary.ts');
        const vocabulary = trainVocabulary(readDocuments(text, documents ?? 'line'), tokenizer!.vocab);
        const output = join(folder, 'tokenizer.json');
        await writeAtomically(output, textChunk(JSON.stringify(tokenizerJson(vocabulary.spec))));
        return { output, facts: { vocab_size: vocabulary.vocabSize } };
      },
    },
    {
      name: 'pretrain',
      config: { pretrain, documents },
      inputs: text,
      run: async ({ folder, before }) => {
        const { run } = await import('./pretrain.ts');
        const result = await run(
          isSealed(join(folder, 'checkpoint'))
            ? { file: text, resume: folder }
            : { ...options(pretrain!), ...(documents && { documents }), file: text, tokenizer: before, out: folder },
        );
        const { loss, files: _, out: __, ...facts } = result;
        return { output: join(folder, 'model.gguf'), facts: { ...facts, ...ends(loss) } };
      },
    },
  ];
}

function finetune(config: Build['finetunes'][number]): Stage {
  return {
    name: config.name,
    config,
    inputs: [config.file],
    run: async ({ folder, before }) => {
      const { run } = await import('./train.ts');
      const { writeLossCurve } = await import('./loss-curve.ts');
      const begin = { ...options(config, 'name'), epsilon: String(config.epsilon), model: before, out: folder };
      const result = await run(
        (isSealed(join(folder, 'checkpoint')) ? { resume: folder, method: 'auto' } : begin) as never,
      );
      await writeLossCurve(
        folder,
        result.loss.map(loss => loss ?? undefined),
        { stage: config.name },
      );
      const { loss, out: _, ...facts } = result;
      const output = await modelAfter(folder, before);
      return { output, facts: { ...facts, ...ends(loss) } };
    },
  };
}

/** Full training writes a model; an adapter is worked into the weights; a head stands beside them. */
async function modelAfter(folder: string, before: string): Promise<string> {
  const model = join(folder, 'model.gguf');
  if (existsSync(join(folder, 'adapter.gguf'))) {
    const { run } = await import('./model-merge.ts');
    await run({ model: before, adapter: join(folder, 'adapter.gguf'), out: model });
  }
  return existsSync(model) ? model : before;
}

function prune(config: NonNullable<Build['prune']>): Stage {
  return {
    name: 'prune',
    config,
    inputs: config.calibration === undefined ? [] : [config.calibration],
    run: async ({ folder, before }) => {
      const { prune: run } = await import('./model.ts');
      const output = join(folder, 'model.gguf');
      const result = await run({ ...options(config), model: before, out: output });
      const { parameters, parameters_before, kept_layers, notes } = result;
      return { output, facts: { parameters, parameters_before, kept_layers, notes } };
    },
  };
}

function distil(config: NonNullable<Build['distill']>, whole: string, documents: Build['documents']): Stage {
  return {
    name: 'distill',
    config: { config, teacher: config.teacher ?? whole, documents },
    inputs: [...config.file, ...(config.teacher !== undefined && existsSync(config.teacher) ? [config.teacher] : [])],
    run: async ({ folder, before, of }) => {
      const { run } = await import('./distill.ts');
      const { writeLossCurve } = await import('./loss-curve.ts');
      const output = join(folder, 'model.gguf');
      const result = await run({
        ...options(config, 'teacher', 'file'),
        ...(config.file.length > 0 && { file: config.file, ...(documents && { documents }) }),
        teacher: config.teacher ?? of(whole),
        student: before,
        out: output,
        resume: true,
      });
      await writeLossCurve(
        folder,
        result.loss.map(loss => loss ?? undefined),
        { stage: 'distill' },
      );
      const { loss, out: _, sha256: __, ...facts } = result;
      return { output, facts: { ...facts, ...ends(loss) } };
    },
  };
}

function quantize(config: NonNullable<Build['quantize']>): Stage {
  return {
    name: 'quantize',
    config,
    inputs: [],
    run: async ({ folder, before }) => {
      const { quantize: run } = await import('./model.ts');
      const output = join(folder, 'model.gguf');
      const { size_mb_before, tensors, notes } = await run({ model: before, type: config.type, out: output });
      return { output, facts: { type: config.type, size_mb_before, tensors, notes } };
    },
  };
}

/** The last model under the name that `base:` of a deployment is given. */
export async function placeFinal(model: string, final: string): Promise<void> {
  const { openModel } = await import('../learn/model/open.ts');
  if (model.endsWith('.gguf')) {
    copyFileSync(model, `${final}.part`);
    const { renameSync } = await import('node:fs');
    renameSync(`${final}.part`, final);
    return;
  }
  const { writeModelGguf } = await import('../learn/model/export.ts');
  await writeModelGguf(await openModel(model), final, { type: 'f16' });
}
