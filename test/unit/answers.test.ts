import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import test from 'node:test';
import {
  bestRougeL,
  meanOf,
  normalizeAnswer,
  rougeL,
  scoreAnswers,
  summarizeTimings,
} from '../../src/learn/metrics/index.ts';

interface Golden {
  cases: { reference: string; answer: string; precision: number; recall: number; f1: number; normalized: string }[];
  multi: { references: string[]; answer: string; f1: number }[];
}
const golden = JSON.parse(readFileSync(new URL('../golden/rouge.json', import.meta.url), 'utf8')) as Golden;
const near = (found: number, expected: number, what?: string) =>
  assert.ok(Math.abs(found - expected) < 1e-12, `${what}: ${found}, expected ${expected}`);

test("ROUGE-L is rouge_score's, normalisation SQuAD's", () => {
  for (const { reference, answer, precision, recall, f1, normalized } of golden.cases) {
    const found = rougeL(reference, answer);
    near(found.precision, precision, reference);
    near(found.recall, recall, reference);
    near(found.f1, f1, reference);
    assert.equal(normalizeAnswer(reference), normalized);
  }
  for (const { references, answer, f1 } of golden.multi) near(bestRougeL(references, answer).f1, f1);
});

test('words of other scripts count where asked for', () => {
  assert.equal(rougeL('перевод отправлен', 'перевод отправлен').f1, 0);
  assert.equal(rougeL('перевод отправлен', 'Перевод, отправлен!', { unicode: true }).f1, 1);
});

test('answers: exact and normalised match over several references, with standard errors', () => {
  const scores = scoreAnswers([
    { references: ['Paris', 'the city of Paris'], answer: ' Paris ' },
    { references: ['The Seine.'], answer: 'seine' },
    { references: ['1889'], answer: '1887' },
    { references: ['iron'], answer: 'iron' },
  ]);
  assert.deepEqual([scores.items, scores.exactMatch.mean, scores.normalizedMatch.mean], [4, 0.5, 0.75]);
  near(scores.exactMatch.error!, Math.sqrt(1 / 3 / 4));
  near(scores.rougeL.f1.mean, (1 + 2 / 3 + 0 + 1) / 4);
  assert.deepEqual(meanOf([3]), { mean: 3, error: null });
  assert.throws(() => scoreAnswers([]), { code: 'invalid', field: 'file' });
});

test('timings: percentiles of answers, tokens a second after the first, failures by their line', () => {
  const ok = (firstMs: number, totalMs: number, tokens: number) => ({ ok: true as const, firstMs, totalMs, tokens });
  const s = summarizeTimings([
    ok(100, 1100, 11),
    ok(200, 1200, 21),
    ok(300, 300, 1),
    { ok: false, error: 'busy' },
    { ok: false, error: 'busy' },
  ]);
  assert.deepEqual([s.requests, s.errors, s.errorRate, s.tokens], [5, 2, 0.4, 33]);
  assert.deepEqual(s.failures, { busy: 2 });
  assert.deepEqual([s.firstTokenMs.p50, s.responseMs.p50, s.tokensPerSecond.p50], [200, 1100, 15]);
  near(s.responseMs.p95!, 1190);
  const none = summarizeTimings([]);
  assert.deepEqual([none.errorRate, none.responseMs.p50], [null, null]);
});
