import assert from 'node:assert/strict';
import test from 'node:test';
import type { ActionOf } from '../../src/events/actions.ts';
import { openGguf } from '../../src/learn/llama/index.ts';
import type { VersionManifest } from '../../src/learn/model/version.ts';
import type { Mechanism } from '../../src/learn/privacy/index.ts';
import { PUBLIC_SENTENCES } from '../../src/learn/training/public-text.ts';
import type { Verdict } from '../../src/loop/round/index.ts';
import { workOf } from '../../src/loop/round/work.ts';
import { viewSaid } from '../../src/store/feedback-view.ts';
import { listLedger } from '../../src/store/ledger.ts';
import { getVersion } from '../../src/store/versions.ts';
import { type RoundDeployment, roundDeployment, type Said } from '../support/rounds.ts';

const finetune = (change: Partial<ActionOf<'finetune'>>): ActionOf<'finetune'> => ({
  do: 'finetune',
  data: 'feedback',
  method: 'auto',
  objective: 'auto',
  epsilon: 4,
  max_minutes: 1,
  ...change,
});
/** One canary user may be among them. */
const SETTINGS = { 'privacy.expected_users': 50 };
const users = <T>(make: (user: string, i: number) => T): T[] =>
  Array.from({ length: 36 }, (_, i) => make(`user${i}`, i));

/** Nats of an answer to a prompt under a version, as llama.cpp serves it: the first letter's share is enough to tell. */
async function firstLetter(d: RoundDeployment, version: number, prompt: string, letters: string): Promise<number[]> {
  const { manifest } = await getVersion(d.db, version);
  const path = (blob: VersionManifest['model']) => d.ports.artifacts.path(blob);
  const model = await openGguf(await path(manifest.model));
  const adapter = manifest.adapter && {
    path: await d.ports.artifacts.path(manifest.adapter),
    scale: manifest.adapter.scale,
  };
  const generator = await model.createGenerator({ contextSize: 256, ...(adapter && { adapter }) });
  const text = `<|im_start|>user\n${prompt}<|im_end|>\n<|im_start|>assistant\n`;
  const { probabilities } = await generator.scoreLabels({
    tokens: model.tokenize(text, { special: true }),
    labels: [...letters].map(letter => model.tokenize(letter)),
    terminator: 2,
    negligible: 0,
  });
  await generator.dispose();
  await model.dispose();
  return [...probabilities];
}

test('corrections: objective auto takes instruct, says why, and the version answers more like what people wrote', async t => {
  const d = await roundDeployment(t, { settings: SETTINGS });
  await d.said(users((user, i) => ({ user, kind: 'correction', prompt: `how ${i % 3}?`, ideal: 'zzz' })));
  await d.said([{ user: 'user1', kind: 'preference', prompt: 'x', chosen: 'good', rejected: 'bad' }]);
  const round = await d.run([finetune({})]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const { trainings, trained, view, notes } = workOf(round);
  assert.deepEqual([trainings![0]!.kind, trained![0]!.objective], ['feedback', 'instruct']);
  assert.equal(view!.feedback, 36);
  assert.match(notes!.join(' '), /objective instruct: .*36 corrections, 1 preferences.*norm scales/);
  assert.ok(!JSON.stringify(trainings).includes('seed'));
  assert.ok(round.epsilon > 3.8 && round.epsilon <= 4);
  assert.deepEqual((await listLedger(d.db)).map(row => row.entry).reverse(), [
    'reserve',
    'declare',
    'settle',
    'declare',
  ]);
  const before = await firstLetter(d, 1, 'how 1?', 'zq');
  const after = await firstLetter(d, 2, 'how 1?', 'zq');
  assert.ok(after[0]! > before[0]!, `${before} -> ${after}`);
});

test('preferences and ratings in one round: DPO and KTO move what was chosen and liked ahead', async t => {
  const d = await roundDeployment(t, { settings: SETTINGS });
  await d.said(
    users((user, i): Said => {
      if (i % 2 === 0) return { user, kind: 'preference', prompt: 'which?', chosen: 'aaa', rejected: 'bbb' };
      return {
        user,
        kind: 'rating',
        prompt: 'which?',
        answer: i % 4 === 1 ? 'aaa' : 'bbb',
        value: i % 4 === 1 ? 1 : -1,
      };
    }),
  );
  // Rated by another than asked: one person's words would be in another's privacy unit.
  await d.said([{ user: 'user3', kind: 'rating', prompt: 'secret', answer: 'ccc', value: 1, asker: 'somebody' }]);
  const round = await d.run([finetune({ method: 'lora', objective: 'preference' })]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  assert.equal(workOf(round).view!.feedback, 36);
  const rows = await viewSaid(d.db, round.id, ['preference', 'rating']);
  assert.ok(!JSON.stringify(rows).includes('secret'));
  assert.deepEqual(rows.find(row => row.kind === 'rating')!.messages, [{ role: 'user', content: 'which?' }]);
  const before = await firstLetter(d, 1, 'which?', 'ab');
  const after = await firstLetter(d, 2, 'which?', 'ab');
  assert.ok(after[0]! > before[0]!, `${before} -> ${after}`);
});

test('labels by the language model itself, under constraints: reported before and after, a hard one that is not met is rejected', async t => {
  const tasks = [{ name: 'tone', labels: ['angry', 'happy', 'calm'] }];
  const d = await roundDeployment(t, { settings: { ...SETTINGS, tasks } });
  const label = (split: string) =>
    users((user, i) => ({
      ...{ user: split + user, task: 'tone', split, text: i % 2 === 0 ? 'broken again' : 'thanks a lot' },
      label: i % 2 === 0 ? 'angry' : 'happy',
    }));
  await d.label(label('train'));
  await d.label(label('holdout'));
  const constraints: ActionOf<'finetune'>['constraints'] = [
    { kl_to_base: 0.5, hard: true },
    { forbidden: { texts: [{ prompt: 'card?', text: '4111' }] }, probability: 1e-4, hard: false },
    { recall: { task: 'tone', label: 'angry' }, at_least: 0.01, hard: false },
    { gap: { task: 'tone', labels: { bad: ['angry'], good: ['happy'] } }, at_most: 0.99, hard: false },
    // Nobody who is held out has said so: it cannot be vouched for.
    { recall: { task: 'tone', label: 'calm' }, at_least: 0.5, hard: true },
  ];
  const round = await d.run([finetune({ method: 'norms', objective: 'classify', constraints })]);
  assert.equal(round.error, null);
  const { constraints: reports, lines } = round.verdict as Verdict;
  assert.deepEqual(
    reports!.map(({ kind, on }) => [kind, on]),
    [
      ['kl_to_base', 'public text'],
      ['forbidden', 'public text'],
      ['recall', 'held-out users'],
      ['gap', 'held-out users'],
      ['recall', 'held-out users'],
    ],
  );
  const [kl, forbidden, recall, gap, unknown] = reports!;
  assert.ok(kl!.before! < 1e-5 && kl!.after! > 0 && kl!.after! <= 0.5 && kl!.met, JSON.stringify(kl));
  assert.ok(forbidden!.met, JSON.stringify(forbidden));
  assert.ok(recall!.before !== null && gap!.after !== null);
  // The constraints', then what the canary users show.
  assert.equal(lines.length, 6);
  assert.equal(lines[5]!.expression, 'the canary audit');
  assert.deepEqual(workOf(round).constrained, reports);
  const [mechanism] = (await listLedger(d.db)).find(row => row.entry === 'settle')!.mechanism as Mechanism[];
  assert.ok(mechanism!.parts!.outcomes! > mechanism!.parts!.gradients!);
  assert.equal(round.state, 'rejected');
  const last = lines[4]!;
  assert.deepEqual([last.result, unknown!.met, unknown!.after], ['fail', null, null]);
  assert.match(last.reason, /could not be measured/);
});

test('documents under a constraint: the KL to the base is kept', async t => {
  const d = await roundDeployment(t);
  await d.document(
    PUBLIC_SENTENCES.slice(60, 72).map(text => ({ text: text.slice(0, 20), source: 'news', public: true })),
  );
  const documents = finetune({ data: 'documents', epsilon: 'none', method: 'lora' });
  const held = await d.run([{ ...documents, constraints: [{ kl_to_base: 0.02, hard: true }] }]);
  assert.deepEqual([held.state, held.error], ['published', null]);
  const [kl] = (held.verdict as Verdict).constraints!;
  assert.ok(kl!.before! < 1e-5 && kl!.after! > 0 && kl!.after! <= 0.02 && kl!.met, JSON.stringify(kl));
});
