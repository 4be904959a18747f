import type { ClassScore } from '../../learn/metrics/f1.ts';
import type { Perplexity } from '../../learn/metrics/perplexity.ts';
import type { AnswersReport } from '../eval-answers.ts';
import type { SpeedReport } from '../eval-speed.ts';
import { bars, escapeHtml, histogram, line } from './svg.ts';

/** Everything a report may hold of one model; what was not measured is left out of the page. */
export interface Measured {
  readonly name: string;
  readonly perplexity?: { readonly total: Perplexity; readonly perLine: readonly number[] };
  readonly f1?: { readonly weighted: number; readonly perClass: Readonly<Record<string, ClassScore>> };
  readonly answers?: AnswersReport;
  readonly speed?: { readonly report: SpeedReport; readonly totalMs: readonly number[] };
  /** Training loss by step. */
  readonly loss?: readonly (number | null)[];
}

const CSS = `:root{color-scheme:light dark;--ink:#1c2024;--soft:#60646c;--rule:#d9dce0;--mark:#2f6f8f;--page:#fff}
@media (prefers-color-scheme:dark){:root{--ink:#e6e8ea;--soft:#9ba1a8;--rule:#3a3f45;--mark:#6fb3d2;--page:#17191c}}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--page);max-width:60rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2.2rem;border-bottom:1px solid var(--rule)}h3{font-size:1rem}
table{border-collapse:collapse;display:block;overflow-x:auto}th,td{padding:.2rem .7rem;text-align:right;border-bottom:1px solid var(--rule)}
th:first-child,td:first-child{text-align:left}p,figcaption{color:var(--soft)}figure{margin:1rem 0}
svg{width:100%;max-width:44rem;height:auto;font:11px system-ui,sans-serif}svg text{fill:var(--soft)}svg rect{fill:var(--mark)}
svg path{fill:none;stroke:var(--mark);stroke-width:1.5}svg .grid{stroke:var(--rule)}`;

const fixed = (value: number | null | undefined, digits = 4): string =>
  value === null || value === undefined ? '–' : value.toFixed(digits);
const within = (value: number | null, error: number | null | undefined, digits = 4): string =>
  error === null || error === undefined ? fixed(value, digits) : `${fixed(value, digits)} ± ${fixed(error, digits)}`;
const pair = (q: { p50: number | null; p95: number | null }): string => `${fixed(q.p50, 1)} / ${fixed(q.p95, 1)}`;

function table(head: readonly string[], rows: readonly (readonly string[])[]): string {
  const cells = (tag: string, row: readonly string[]): string =>
    `<tr>${row.map(cell => `<${tag}>${escapeHtml(cell)}</${tag}>`).join('')}</tr>`;
  return `<table><thead>${cells('th', head)}</thead><tbody>${rows.map(row => cells('td', row)).join('')}</tbody></table>`;
}

type Figure = readonly [name: string, of: (m: Measured) => string | undefined];

const FIGURES: readonly Figure[] = [
  ['perplexity', m => m.perplexity && within(m.perplexity.total.perplexity, m.perplexity.total.perplexityError)],
  ['nats per token', m => m.perplexity && within(m.perplexity.total.nll, m.perplexity.total.nllError)],
  ['bits per byte', m => m.perplexity && fixed(m.perplexity.total.bitsPerByte)],
  ['tokens scored', m => m.perplexity && String(m.perplexity.total.tokens)],
  ['weighted F1', m => m.f1 && fixed(m.f1.weighted)],
  ['exact match', m => m.answers && within(m.answers.exact_match, m.answers.exact_match_error)],
  ['normalized match', m => m.answers && fixed(m.answers.normalized_match)],
  ['ROUGE-L F1', m => m.answers && within(m.answers.rouge_l.f1, m.answers.rouge_l.f1_error)],
  ['response ms, p50 / p95', m => m.speed && pair(m.speed.report.response_ms)],
  ['first token ms, p50 / p95', m => m.speed && pair(m.speed.report.first_token_ms)],
  ['tokens per second, p50 / p95', m => m.speed && pair(m.speed.report.tokens_per_second)],
  ['error rate', m => m.speed && fixed(m.speed.report.error_rate)],
];

function summary(all: readonly Measured[]): string {
  const rows = FIGURES.map(([name, of]) => [name, ...all.map(m => of(m) ?? '–')]).filter(row =>
    row.slice(1).some(cell => cell !== '–'),
  );
  return table(['', ...all.map(m => m.name)], rows);
}

const figure = (plot: string, caption: string): string =>
  `<figure>${plot}<figcaption>${escapeHtml(caption)}</figcaption></figure>`;

function details(m: Measured): string {
  const parts: string[] = [];
  if (m.perplexity !== undefined && m.perplexity.perLine.length > 0) {
    const plot = histogram(m.perplexity.perLine, { x: 'nats per token', y: 'lines' });
    parts.push(
      figure(plot, `Loss of each of ${m.perplexity.perLine.length} lines; the mean weighs lines by their tokens.`),
    );
  }
  if (m.f1 !== undefined) {
    const classes = Object.entries(m.f1.perClass);
    const worst = [...classes].sort((a, b) => a[1].f1 - b[1].f1).slice(0, 40);
    parts.push(
      figure(
        bars(
          worst.map(([name, s]) => [name, s.f1]),
          'F1 by class',
        ),
        classes.length > worst.length
          ? `F1 of the ${worst.length} weakest of ${classes.length} classes.`
          : 'F1 by class.',
      ),
      table(
        ['class', 'precision', 'recall', 'F1', 'support'],
        classes.map(([name, s]) => [name, fixed(s.precision), fixed(s.recall), fixed(s.f1), String(s.support)]),
      ),
    );
  }
  if (m.speed !== undefined && m.speed.totalMs.length > 0) {
    const plot = histogram(m.speed.totalMs, { x: 'response time, ms', y: 'answers' });
    parts.push(figure(plot, `Time to the whole answer, ${m.speed.totalMs.length} answers.`));
  }
  if (m.loss?.some(v => v !== null)) {
    parts.push(figure(line(m.loss, { x: 'step', y: 'loss, nats' }), 'Training loss by step.'));
  }
  return parts.length === 0 ? '' : `<h2>${escapeHtml(m.name)}</h2>${parts.join('')}`;
}

/** One page, everything inline: it can be mailed, and opened years later. */
export function reportPage(title: string, all: readonly Measured[], made: { at: string; by: string }): string {
  return `<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>${escapeHtml(title)}</title><style>${CSS}</style></head>
<body><h1>${escapeHtml(title)}</h1><p>${escapeHtml(`Measured ${made.at} by ${made.by}. ± is one standard error.`)}</p>
<h2>Summary</h2>${summary(all)}
${all.map(details).join('\n')}
</body></html>
`;
}
