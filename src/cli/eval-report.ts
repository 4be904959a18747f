import { readFileSync } from 'node:fs';
import { basename } from 'node:path';
import { invalid } from '../base/errors.ts';
import { textChunk, writeAtomically } from '../learn/model/formats/atomic-file.ts';
import { run as evalAnswers } from './eval-answers.ts';
import { run as evalF1 } from './eval-f1.ts';
import { measure as measurePerplexity } from './eval-perplexity.ts';
import { measure as measureSpeed } from './eval-speed.ts';
import { type Measured, reportPage } from './report/page.ts';

export interface ReportOptions {
  readonly out: string;
  /** Model files, or with `data` names the daemon knows. */
  readonly model?: readonly string[];
  readonly data?: string;
  readonly text?: string;
  readonly predictions?: string;
  readonly answers?: string;
  readonly speed?: boolean;
  readonly requests?: number;
  readonly tokens?: number;
  /** A training's --json output, whose loss is drawn. */
  readonly training?: string;
  readonly title?: string;
}

export interface Reported {
  readonly out: string;
  readonly models: readonly {
    readonly name: string;
    readonly perplexity?: number | null;
    readonly perplexity_error?: number | null;
    readonly weighted_f1?: number;
    readonly exact_match?: number;
    readonly rouge_l?: number;
    readonly response_p95_ms?: number | null;
    readonly error_rate?: number | null;
  }[];
}

async function measureModel(model: string | undefined, options: ReportOptions): Promise<Measured> {
  const { data } = options;
  const target = { ...(model !== undefined && { model }), ...(data !== undefined && { data }) };
  const asked = { ...target, ...(options.tokens !== undefined && { tokens: options.tokens }) };
  const wanted = <T>(on: unknown, work: () => Promise<T>): Promise<T | undefined> =>
    on ? work() : Promise.resolve(undefined);
  // A daemon's own evaluation has its versions' perplexity; a file is needed to measure one here.
  const perplexity = await wanted(options.text !== undefined && model !== undefined && data === undefined, () =>
    measurePerplexity({ model: model!, file: options.text! }),
  );
  const answers = await wanted(options.answers, () => evalAnswers({ ...asked, file: options.answers! }));
  const speed = await wanted(options.speed, () =>
    measureSpeed({ ...asked, ...(options.requests !== undefined && { requests: options.requests }) }),
  );
  return {
    name: model === undefined ? 'champion' : basename(model),
    ...(perplexity && { perplexity }),
    ...(answers && { answers }),
    ...(speed && {
      speed: { report: speed.report, totalMs: speed.timings.flatMap(t => (t.ok ? [t.totalMs] : [])) },
    }),
  };
}

function lossOf(file: string): (number | null)[] {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(file, 'utf8'));
  } catch (cause) {
    throw invalid('training', `${file}: ${(cause as Error).message}`, { cause });
  }
  const loss = (json as { loss?: unknown } | null)?.loss;
  if (Array.isArray(loss) && loss.every(v => v === null || typeof v === 'number')) return loss as (number | null)[];
  throw invalid('training', `${file} has no list of numbers under "loss" (learnd train --json prints one)`);
}

/** Measures what is asked for and writes it as one HTML page with inline plots. */
export async function run(options: ReportOptions): Promise<Reported> {
  const models = options.model ?? (options.data === undefined ? [] : [undefined]);
  const all: Measured[] = [];
  for (const model of models) all.push(await measureModel(model, options));
  if (models.length === 0 && options.answers !== undefined)
    all.push({ name: basename(options.answers), answers: await evalAnswers({ file: options.answers }) });
  if (options.predictions !== undefined) {
    const f1 = await evalF1({ file: options.predictions });
    const scored = { f1: { weighted: f1.weighted_f1, perClass: f1.per_class } };
    // Predictions of the one model measured belong in its column.
    if (all.length === 1) all[0] = { ...all[0]!, ...scored };
    else all.push({ name: basename(options.predictions), ...scored });
  }
  if (options.training !== undefined) {
    const loss = lossOf(options.training);
    if (all.length === 1) all[0] = { ...all[0]!, loss };
    else all.push({ name: basename(options.training), loss });
  }
  if (!all.some(m => Object.keys(m).length > 1)) {
    throw invalid('report', 'nothing to measure: name --text, --predictions, --answers, --speed or --training');
  }
  const made = { at: `${new Date().toISOString().slice(0, 16).replace('T', ' ')} UTC`, by: 'learnd' };
  const page = reportPage(options.title ?? `Evaluation of ${all.map(m => m.name).join(', ')}`, all, made);
  await writeAtomically(options.out, textChunk(page));
  return {
    out: options.out,
    models: all.map(m => ({
      name: m.name,
      ...(m.perplexity && {
        perplexity: m.perplexity.total.perplexity,
        perplexity_error: m.perplexity.total.perplexityError,
      }),
      ...(m.f1 && { weighted_f1: m.f1.weighted }),
      ...(m.answers && { exact_match: m.answers.exact_match, rouge_l: m.answers.rouge_l.f1 }),
      ...(m.speed && {
        response_p95_ms: m.speed.report.response_ms.p95,
        error_rate: m.speed.report.error_rate,
      }),
    })),
  };
}

export const human = (r: Reported): string => `${r.out}: ${r.models.map(m => m.name).join(', ')}`;
