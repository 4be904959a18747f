import assert from 'node:assert/strict';
import test from 'node:test';
import { type Measured, reportPage } from '../../src/cli/report/page.ts';
import { bars, histogram, line, ticks } from '../../src/cli/report/svg.ts';
import { perplexity } from '../../src/learn/metrics/index.ts';

const made = { at: '2026-01-02 03:04 UTC', by: 'learnd' };

/** Every tag closed in order, and every attribute quoted: what an XML reader would ask of the SVG. */
function wellFormed(markup: string): void {
  const open: string[] = [];
  for (const [, close, name, attributes, self] of markup.matchAll(
    /<(\/?)([a-z][a-z0-9]*)((?:\s+[\w-]+="[^"<]*")*)\s*(\/?)>/g,
  )) {
    if (close) assert.equal(open.pop(), name);
    else if (!self && name !== 'meta') open.push(name!);
    void attributes;
  }
  assert.deepEqual(open, []);
  assert.equal(markup.replaceAll(/<\/?[a-z][a-z0-9]*(?:\s+[\w-]+="[^"<]*")*\s*\/?>/g, '').includes('<'), false);
}

test('plots are well-formed and hold what they are given', () => {
  const plot = histogram([1, 1, 2, 3, 10], { x: 'a & b', y: 'n' });
  wellFormed(plot);
  const heights = [...plot.matchAll(/<rect [^>]*height="([\d.]+)"/g)].map(m => Number(m[1]));
  assert.equal(heights.length, 3);
  assert.ok(Math.abs(heights[0]! / heights[2]! - 4) < 0.05, 'four values in the first third, one in the last');
  wellFormed(histogram([5, 5, 5], { x: 'x', y: 'y' }));
  const loss = line([3, null, 2, 1], { x: 'step', y: 'loss' });
  wellFormed(loss);
  assert.equal(loss.match(/<path d="([^"]*)"/)![1]!.match(/M/g)!.length, 2, 'a gap lifts the pen');
  wellFormed(line([2], { x: 'step', y: 'loss' }));
  wellFormed(bars([['card <lost>', 0.5]], 'F1'));
  assert.deepEqual(ticks(0, 1), [0, 0.2, 0.4, 0.6, 0.8, 1]);
  assert.deepEqual(ticks(3, 3), [3]);
});

test('a page has every figure, nothing from elsewhere, and no way in for markup', () => {
  const model: Measured = {
    name: 'a<script>alert(1)</script>.gguf',
    perplexity: {
      total: perplexity([
        { nll: 20, tokens: 10, bytes: 40 },
        { nll: 33, tokens: 11, bytes: 44 },
      ]),
      perLine: [2, 3],
    },
    f1: { weighted: 0.75, perClass: { '<img src=x>': { precision: 1, recall: 0.6, f1: 0.75, support: 5 } } },
    answers: {
      items: 2,
      exact_match: 0.5,
      exact_match_error: 0.5,
      normalized_match: 0.5,
      rouge_l: { precision: 0.4, recall: 0.5, f1: 0.44, f1_error: 0.1 },
    },
    loss: [3, 2, 1],
  };
  const page = reportPage('Evaluation & more', [model, { name: 'empty' }], made);
  wellFormed(page.replace('<!doctype html>\n', '').replace(/<style>[^<]*<\/style>/, ''));
  for (const figure of [
    `${Math.exp(53 / 21).toFixed(4)} ± `,
    '0.7500',
    '0.5000 ± 0.5000',
    '0.4400 ± 0.1000',
    '2026-01-02',
  ])
    assert.ok(page.includes(figure), figure);
  assert.ok(!/<script|<img|https?:|url\(|@import|<link/.test(page));
  assert.ok(page.includes("default-src 'none'"));
});
