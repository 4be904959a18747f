import assert from 'node:assert/strict';
import test from 'node:test';
import type { ActionOf } from '../../src/events/actions.ts';
import { epsilon } from '../../src/learn/privacy/accountant.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import type { Verdict } from '../../src/loop/round/index.ts';
import { workOf } from '../../src/loop/round/work.ts';
import { listLedger, verifyLedger } from '../../src/store/ledger.ts';
import { getVersion, listVersions } from '../../src/store/versions.ts';
import { roundDeployment } from '../support/rounds.ts';

const finetune = (change: Partial<ActionOf<'finetune'>>): ActionOf<'finetune'> => ({
  do: 'finetune',
  data: 'documents',
  method: 'auto',
  objective: 'auto',
  epsilon: 'none',
  max_minutes: 1,
  ...change,
});
const texts = (from: number, to: number, users: string) =>
  PUBLIC_SENTENCES.slice(from, to).map((text, i) => ({ user: `${users}${i % 20}`, text: text.slice(0, 24) }));

test('public documents: LoRA without noise, a declaration in the ledger, no cost, then a second adapter on the first', async t => {
  const d = await roundDeployment(t);
  await d.document(texts(60, 120, 'a').map(row => ({ ...row, source: 'news', public: true })));
  await d.document(texts(120, 130, 'b')); // private: not for this one
  await d.document(texts(130, 160, 'c').map(row => ({ ...row, split: 'holdout' })));
  const round = await d.run([finetune({})]);
  assert.deepEqual([round.state, round.error, round.epsilon], ['published', null, 0]);
  assert.deepEqual(workOf(round).view, { feedback: 0, documents: 60 });
  const { champion, candidate } = round.verdict as Verdict;
  assert.ok(candidate.perplexity! < champion.perplexity! * 0.9, `${champion.perplexity} -> ${candidate.perplexity}`);
  assert.ok(champion.tokens_per_second! > 0 && candidate.size_mb > champion.size_mb);
  const version = await getVersion(d.db, 2);
  const base = await getVersion(d.db, 1);
  assert.equal(await d.champion(), 2);
  assert.equal(version.parent, 1);
  assert.equal(version.manifest.model.sha256, base.manifest.model.sha256);
  assert.equal(version.manifest.adapter?.rank, 8);
  const ledger = await listLedger(d.db);
  assert.deepEqual(ledger.map(row => [row.entry, (row.mechanism as { what?: string }).what]).reverse(), [
    ['declare', 'training without noise'],
    ['declare', 'gate'],
  ]);
  assert.match(JSON.stringify(ledger), /news/);

  const second = await d.run([finetune({})]);
  assert.equal(second.state, 'published');
  assert.equal((await getVersion(d.db, 3)).manifest.adapter?.rank, 16);
});

test('private documents: norm scales with noise, reserved before and settled after; nothing secret stays', async t => {
  const d = await roundDeployment(t, { settings: { 'privacy.expected_users': 20 } });
  await d.document(texts(60, 120, 'a'));
  await d.document(texts(130, 160, 'c').map(row => ({ ...row, split: 'holdout' })));
  const norms = finetune({ method: 'norms', epsilon: 4 });
  const { state, error } = await d.run([norms, norms]);
  assert.deepEqual([state, error], ['published', null]);
  const [round] = (await d.db.query<{ work: unknown; epsilon: number }>('select * from rounds order by id desc')).rows;
  assert.ok(!JSON.stringify(round).includes('seed'), 'a seed was left behind');
  const ledger = (await listLedger(d.db)).reverse();
  assert.deepEqual(
    ledger.map(row => row.entry),
    ['reserve', 'declare', 'settle', 'declare'],
  );
  assert.deepEqual(ledger[2]!.mechanism, ledger[0]!.mechanism);
  const spent = epsilon(ledger[2]!.mechanism as never, 1e-6);
  assert.equal(round!.epsilon, spent);
  assert.ok(spent > 4 && spent < 8, `two trainings at 4 compose to ${spent}`);
  assert.deepEqual(await verifyLedger(d.db).then(v => v.ok), true);
  const version = await getVersion(d.db, 2);
  assert.notEqual(version.manifest.model.sha256, (await getVersion(d.db, 1)).manifest.model.sha256);
  assert.equal(version.manifest.adapter, undefined);

  // What is left of the budget does not allow the same again: refused before anything is trained.
  const workers = d.workers.length;
  const refused = await d.run([finetune({ epsilon: 6 })]);
  assert.equal(refused.state, 'refused');
  assert.match(refused.error!, /the limit is 8/);
  assert.equal(d.workers.length, workers);
  assert.equal((await listLedger(d.db)).length, 4);
  const { rows } = await d.db.query(`select 1 from round_rows where round = $1`, [refused.id]);
  assert.equal(rows.length, 0, 'a refused round has no view');
});

test('private LoRA and all weights, as a rule may ask: an adapter over the last blocks, then merged under full training', async t => {
  const d = await roundDeployment(t, { settings: { 'privacy.expected_users': 20 } });
  await d.document(texts(60, 120, 'a'));
  const lora = await d.run([finetune({ method: 'lora', epsilon: 3 })]);
  assert.deepEqual([lora.state, lora.error], ['published', null]);
  const two = (await getVersion(d.db, 2)).manifest;
  assert.deepEqual([two.adapter?.rank, two.logit_bias], [4, undefined]);
  const full = await d.run([finetune({ method: 'full', epsilon: 3 })]);
  assert.deepEqual([full.state, full.error], ['published', null]);
  const three = (await getVersion(d.db, 3)).manifest;
  assert.equal(three.adapter, undefined);
  assert.notEqual(three.model.sha256, two.model.sha256);
  assert.deepEqual(workOf(full).notes!.slice(0, 1), ['method: full, as the rule asks']);
});

test('refusals: no noise on private documents, feedback without noise, nothing to train on, what is not built', async t => {
  const d = await roundDeployment(t);
  await d.document(texts(60, 70, 'a'));
  for (const [actions, reason] of [
    [[finetune({})], /declared public/],
    [[finetune({ data: 'feedback' })], /feedback is private/],
    [[finetune({ data: 'feedback', epsilon: 1 })], /no labelled feedback/],
    [[{ do: 'distill', max_minutes: 1 }], /distill/],
    [[{ do: 'quantize', type: 'q8_0' }, finetune({ epsilon: 1 })], /order quantize, finetune/],
  ] as const) {
    const round = await d.run(actions);
    assert.equal(round.state, 'refused');
    assert.match(round.error!, reason);
  }
  assert.equal(d.workers.length, 0);
  assert.equal((await listLedger(d.db)).length, 0);
});

test('prune and quantize: smaller, no privacy cost; a rejected candidate is kept with both figures; rollback and evaluate', async t => {
  let admit = true;
  const d = await roundDeployment(t, { ports: { gate: () => ({ admitted: admit, lines: [] }) } });
  await d.document(texts(60, 100, 'a').map(row => ({ ...row, source: 'news', public: true })));
  await d.document(texts(130, 160, 'c').map(row => ({ ...row, split: 'holdout' })));
  const round = await d.run([
    finetune({}),
    { do: 'prune', ffn: 32, calibration: 'public' },
    { do: 'quantize', type: 'q8_0' },
  ]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const { champion, candidate } = round.verdict as Verdict;
  assert.ok(candidate.parameters < champion.parameters && candidate.size_mb < champion.size_mb / 2);
  const { manifest } = await getVersion(d.db, 2);
  assert.equal(manifest.adapter, undefined);
  assert.equal(manifest.model.quantization, 'q8_0');

  admit = false;
  const rejected = await d.run([{ do: 'quantize', type: 'q5_k' }]);
  assert.match(
    workOf(rejected).notes!.join('\n'),
    /rows of 32 do not divide into q5_k's blocks of 256: q5_1\n.*tensors: \d+ q5_1/s,
  );
  assert.deepEqual([rejected.state, rejected.candidate, await d.champion()], ['rejected', 3, 2]);
  const kept = await getVersion(d.db, 3);
  assert.deepEqual([kept.state, kept.parent, kept.manifest.model.quantization], ['rejected', 2, 'q5_1']);
  assert.ok(
    (rejected.verdict as Verdict).candidate.perplexity! > 0 && (rejected.verdict as Verdict).champion.perplexity! > 0,
  );

  const back = await d.run([{ do: 'rollback' } as never]);
  assert.deepEqual([back.state, await d.champion()], ['published', 1]);
  const measured = await d.run([{ do: 'evaluate' } as never]);
  assert.deepEqual([measured.state, measured.finished_at !== null, await d.champion()], ['evaluated', true, 1]);
  assert.ok(((await getVersion(d.db, 1)).evaluation as { perplexity: number }).perplexity > 0);
  assert.equal((await listVersions(d.db)).length, 3);
});

test('the worker killed in training: tried again with the same seeds, one reservation, one settlement', async t => {
  const d = await roundDeployment(t, { settings: { 'privacy.expected_users': 20 } });
  await d.document(texts(60, 120, 'a'));
  const killer = setInterval(() => {
    const pid = d.workers[0];
    if (pid === undefined) return;
    clearInterval(killer);
    setTimeout(() => process.kill(pid, 'SIGKILL'), 1500);
  }, 50);
  const round = await d.run([finetune({ method: 'norms', epsilon: 4 })]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  assert.equal(new Set(d.workers).size, 3, 'one killed, one that trained, one that evaluated');
  assert.deepEqual((await listLedger(d.db)).map(row => row.entry).reverse(), [
    'reserve',
    'declare',
    'settle',
    'declare',
  ]);
});

test('a private histogram: the bias is a blob of the version, measured with it, added to by the next round, gone after a rollback', async t => {
  const d = await roundDeployment(t, { settings: { 'privacy.expected_users': 1000 } });
  // Of a vocabulary of letters these documents use few: that is what a histogram finds.
  const few = (n: number, users: string) =>
    Array.from({ length: n }, (_, i) => ({
      user: `${users}${i}`,
      text: ['abba baba', 'caba abac', 'bacca cab'][i % 3]!,
    }));
  await d.document(few(1000, 'a'));
  await d.document(few(30, 'h').map(row => ({ ...row, split: 'holdout' })));
  const round = await d.run([finetune({ method: 'bias', epsilon: 3 })]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  assert.match(workOf(round).notes!.join('\n'), /as the rule asks\n\d+ tokens stood out .* \d+ units counted/);
  const { champion, candidate } = round.verdict as Verdict;
  assert.ok(candidate.perplexity! < champion.perplexity! * 0.5, `${champion.perplexity} -> ${candidate.perplexity}`);
  const two = await getVersion(d.db, 2);
  assert.equal(two.manifest.model.sha256, (await getVersion(d.db, 1)).manifest.model.sha256);
  assert.match(two.manifest.logit_bias!.file, /^blobs\/[0-9a-f]{64}\.json$/);
  assert.equal(two.manifest.logit_bias!.file, `blobs/${two.manifest.logit_bias!.sha256}.json`);

  const again = await d.run([finetune({ epsilon: 3 })]);
  assert.deepEqual([again.state, again.error], ['published', null]);
  assert.match(workOf(again).notes![0]!, /auto: a noised histogram of tokens \(\d+% of the budget\), then norm scales/);
  const three = await getVersion(d.db, 3);
  assert.notEqual(three.manifest.model.sha256, two.manifest.model.sha256);
  assert.notEqual(three.manifest.logit_bias!.sha256, two.manifest.logit_bias!.sha256);
  const better = again.verdict as Verdict;
  // With the first bias in the forward pass there is little left to correct: were it released anew and added, it would count twice.
  assert.ok(better.candidate.perplexity! < better.champion.perplexity! * 1.02, JSON.stringify(better));

  const back = [await d.run([{ do: 'rollback' } as never]), await d.run([{ do: 'rollback' } as never])];
  assert.deepEqual([back[1]!.state, await d.champion()], ['published', 1]);
  assert.equal((await getVersion(d.db, 1)).manifest.logit_bias, undefined);
});
