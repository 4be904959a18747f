import { readFileSync } from 'node:fs';
import { dirname, isAbsolute, join } from 'node:path';
import { z } from 'zod';
import { invalid, LearndError } from '../base/errors.ts';
import { nearest, type Path, Source } from '../loop/policy/source.ts';

/** config/build.yaml: the stages of a model from raw text to a compact one, in their order. */

const count = z.number().int().min(1);
const positive = z.number().positive();
const share = z.number().min(0).max(1);
const files = z.union([z.string().min(1), z.array(z.string().min(1)).min(1)]);
const documents = z.enum(['line', 'paragraph', 'file']);

const training = {
  steps: count.optional(),
  batch: count.optional(),
  sequence: count.min(2).optional(),
  rate: positive.optional(),
  minutes: positive.optional(),
};

const tokenizer = z.strictObject({ vocab: z.number().int().min(260) });

const pretrain = z.strictObject({
  ...training,
  objective: z.enum(['causal', 'masked', 'mixed']).optional(),
  masked_share: share.optional(),
  bidirectional: z.boolean().optional(),
  hidden: count.optional(),
  layers: count.optional(),
  heads: count.optional(),
  kv_heads: count.optional(),
  ffn: count.optional(),
  context: count.optional(),
  untied: z.boolean().optional(),
  passes: positive.optional(),
  schedule: z.enum(['constant', 'cosine', 'linear']).optional(),
  warmup: z.number().int().min(0).optional(),
  holdout: share.optional(),
  seed: z.string().optional(),
});

const finetune = z.strictObject({
  ...training,
  /** Names its folder; default `finetune`, `finetune-2`, … */
  name: z
    .string()
    .regex(/^[a-z0-9-]+$/, 'may have small letters, digits and -')
    .optional(),
  file: z.string().min(1),
  objective: z.enum(['next_token', 'instruct', 'classify', 'preference']).optional(),
  method: z.enum(['full', 'lora', 'norms', 'head']).default('lora'),
  epsilon: z.union([positive, z.literal('none')]).default('none'),
  rank: count.optional(),
  layers: count.optional(),
  /** Variants of each example, which count with it as one; true: the usual number. */
  augment: z.union([z.literal(true), count.max(16)]).optional(),
  user: z.string().optional(),
  text: z.string().optional(),
  label: z.string().optional(),
  labels: z.string().optional(),
});

const prune = z.strictObject({
  method: z.enum(['activation', 'flap', 'wanda', 'magnitude', 'random']).optional(),
  ffn: count.optional(),
  uneven: z.boolean().optional(),
  drop_layers: count.optional(),
  layers_by: z.enum(['influence', 'sleb', 'random']).optional(),
  /** Public text, a line a sample; default: the sentences that come with learnd. */
  calibration: z.string().optional(),
});

const distill = z.strictObject({
  ...training,
  /** A model; default: what the model was before it was pruned. */
  teacher: z.string().min(1).optional(),
  /** Public text; default: `text`, or the sentences that come with learnd. */
  file: files.optional(),
  temperature: positive.optional(),
  top_k: count.optional(),
  labels: share.optional(),
  on_policy: share.optional(),
  beta: share.optional(),
  tokens: count.optional(),
});

const evaluate = z.strictObject({
  /** A text a line: perplexity. */
  text: z.string().optional(),
  /** CSV or JSONL with texts and their labels: weighted F1 of label scoring, and of a head that learns from the rows of `head`. */
  labels: z
    .strictObject({
      file: z.string(),
      head: z.string().optional(),
      text: z.string().optional(),
      label: z.string().optional(),
    })
    .optional(),
  /** JSONL {"reference", "prompt"}: exact match and ROUGE-L. */
  answers: z.strictObject({ file: z.string(), tokens: count.optional() }).optional(),
  /** Response time, tokens/s, error rate, by llama.cpp. */
  speed: z.strictObject({ requests: count.optional(), tokens: count.optional() }).optional(),
});

const schema = z.strictObject({
  out: z.string().min(1).default('built'),
  /** Unstructured text, for the tokenizer and for pre-training. */
  text: files.optional(),
  documents: documents.optional(),
  /** Published weights in place of tokenizer and pre-training: a path, smollm2-135m, or a hub id. */
  base: z.string().min(1).optional(),
  tokenizer: tokenizer.optional(),
  pretrain: pretrain.optional(),
  finetune: z.union([finetune, z.array(finetune).min(1)]).optional(),
  prune: prune.optional(),
  distill: distill.optional(),
  quantize: z.strictObject({ type: z.string().min(1) }).optional(),
  evaluate: evaluate.optional(),
});

export type BuildConfig = z.infer<typeof schema> & { readonly text?: string[] };
export type FinetuneConfig = z.infer<typeof finetune>;

const asList = <T>(value: T | T[] | undefined): T[] =>
  value === undefined ? [] : Array.isArray(value) ? value : [value];

export interface Build {
  readonly out: string;
  readonly text: readonly string[];
  readonly documents: z.infer<typeof documents> | undefined;
  readonly base: string | undefined;
  readonly tokenizer: z.infer<typeof tokenizer> | undefined;
  readonly pretrain: z.infer<typeof pretrain> | undefined;
  readonly finetunes: readonly (FinetuneConfig & { readonly name: string })[];
  readonly prune: z.infer<typeof prune> | undefined;
  readonly distill: (Omit<z.infer<typeof distill>, 'file'> & { readonly file: readonly string[] }) | undefined;
  readonly quantize: { readonly type: string } | undefined;
  readonly evaluate: z.infer<typeof evaluate> | undefined;
}

/** Reads and checks a build; paths are relative to the file's folder. @throws LearndError('invalid') with line, column and field */
export function readBuild(file: string): Build {
  let text: string;
  try {
    text = readFileSync(file, 'utf8');
  } catch (cause) {
    throw invalid('config', `cannot read ${file}: ${(cause as Error).message}`, { cause });
  }
  const source = new Source(text);
  const [problem] = source.problems();
  if (problem !== undefined) throw at(file, problem, problem.path, problem.message);
  const parsed = schema.safeParse(source.document.toJS() ?? {});
  if (!parsed.success) throw wrong(file, source, parsed.error.issues);
  const build = parsed.data;
  const fail = (path: Path, message: string): LearndError => at(file, source.value(path), path.join('.'), message);
  if (build.base === undefined && build.text === undefined) throw fail([], 'name text to learn from, or a base model');
  if (build.base !== undefined && (build.tokenizer || build.pretrain))
    throw fail(
      [build.tokenizer ? 'tokenizer' : 'pretrain'],
      'a base model has its vocabulary and its weights: leave this out',
    );
  if (build.distill && !build.distill.teacher && !build.prune)
    throw fail(['distill'], 'without prune before it, name a teacher');
  if (build.prune && build.prune.ffn === undefined && build.prune.drop_layers === undefined)
    throw fail(['prune'], 'say ffn, drop_layers or both');
  const folder = dirname(file);
  const here = (path: string): string => (isAbsolute(path) ? path : join(folder, path));
  // A model may be a name instead of a path.
  const model = (name: string): string => (/^\.{0,2}\/|\.gguf$/.test(name) ? here(name) : name);
  const { evaluate: measured } = build;
  const names = new Set<string>();
  return {
    out: here(build.out),
    text: asList(build.text).map(here),
    documents: build.documents,
    base: build.base === undefined ? undefined : model(build.base),
    tokenizer: build.base === undefined ? (build.tokenizer ?? { vocab: 2048 }) : undefined,
    pretrain: build.base === undefined ? (build.pretrain ?? {}) : undefined,
    finetunes: asList(build.finetune).map((one, i) => {
      const name = one.name ?? (i === 0 ? 'finetune' : `finetune-${i + 1}`);
      if (names.has(name)) throw fail(['finetune', i], `there are two fine-tunings named ${name}`);
      names.add(name);
      return { ...one, name, file: here(one.file) };
    }),
    prune: build.prune && {
      ...build.prune,
      ...(build.prune.calibration !== undefined && { calibration: here(build.prune.calibration) }),
    },
    distill: build.distill && {
      ...build.distill,
      ...(build.distill.teacher !== undefined && { teacher: model(build.distill.teacher) }),
      file: (build.distill.file === undefined ? asList(build.text) : asList(build.distill.file)).map(here),
    },
    quantize: build.quantize,
    evaluate: measured && {
      ...measured,
      ...(measured.text !== undefined && { text: here(measured.text) }),
      ...(measured.labels && {
        labels: {
          ...measured.labels,
          file: here(measured.labels.file),
          ...(measured.labels.head !== undefined && { head: here(measured.labels.head) }),
        },
      }),
      ...(measured.answers && { answers: { ...measured.answers, file: here(measured.answers.file) } }),
    },
  };
}

const at = (file: string, where: { line: number; column: number }, field: string, message: string): LearndError =>
  new LearndError('invalid', `${file}:${where.line}:${where.column}: ${field === '' ? '' : `${field}: `}${message}`, {
    field: field === '' ? 'config' : field,
    retriable: false,
  });

type Issue = z.core.$ZodIssue;

interface Found {
  readonly issue: Issue;
  readonly path: Path;
}

/** Every issue at its place, those of a choice between forms in its stead. */
const found = (issue: Issue, above: Path): Found[] => {
  const path = [...above, ...issue.path] as Path;
  return issue.code === 'invalid_union' && issue.errors.length > 0
    ? issue.errors.flat().flatMap(inner => found(inner, path))
    : [{ issue, path }];
};

/** A name that is not known explains what else is missing; then what lies deepest is what was meant. */
function meant(issues: readonly Issue[]): Found {
  const all = issues.flatMap(issue => found(issue, []));
  const unknown = (f: Found): number => Number(f.issue.code === 'unrecognized_keys');
  return all.reduce((best, f) =>
    unknown(f) > unknown(best) || (unknown(f) === unknown(best) && f.path.length > best.path.length) ? f : best,
  );
}

function wrong(file: string, source: Source, issues: readonly Issue[]): LearndError {
  const { issue, path } = meant(issues);
  if (issue.code !== 'unrecognized_keys') return at(file, source.value(path), path.join('.'), issue.message);
  const key = issue.keys[0]!;
  const near = nearest(key, knownKeys(path));
  const known = near === undefined ? `known are ${knownKeys(path).join(', ')}` : `did you mean ${near}?`;
  return at(file, source.key(path, key), [...path, key].join('.'), `there is no such setting; ${known}`);
}

const SHAPES: Readonly<Record<string, z.ZodObject>> = { tokenizer, pretrain, finetune, prune, distill, evaluate };

function knownKeys(path: Path): string[] {
  const shape = path.length === 0 ? schema : SHAPES[String(path[0])];
  const inner = path[0] === 'evaluate' && path.length > 1 ? evaluate.shape[path[1] as 'speed'].unwrap() : shape;
  return inner === undefined ? [] : Object.keys((inner as z.ZodObject).shape);
}
