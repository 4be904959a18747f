import assert from 'node:assert/strict';
import test from 'node:test';
import type { ActionOf } from '../../src/events/actions.ts';
import type { Verdict } from '../../src/loop/round/index.ts';
import { workOf } from '../../src/loop/round/work.ts';
import { listLedger } from '../../src/store/ledger.ts';
import { getVersion } from '../../src/store/versions.ts';
import { INTENTS, inquiries } from '../support/inquiries.ts';
import { roundDeployment } from '../support/rounds.ts';

const finetune: ActionOf<'finetune'> = {
  do: 'finetune',
  data: 'feedback',
  method: 'auto',
  objective: 'auto',
  epsilon: 4,
  max_minutes: 2,
};

test('a private head: better than label scoring on held-out users, served from its own feature file, kept by later rounds', {
  timeout: 240_000,
}, async t => {
  const d = await roundDeployment(t, {
    base: 'scratch',
    settings: {
      tasks: [{ name: 'intent', labels: [...INTENTS] }],
      'privacy.expected_users': 400,
      'train.feature_layer': 10,
    },
  });
  await d.label(
    inquiries({ intents: INTENTS, users: 400, perUser: 2, seed: 1 }).map(({ user, text, label }) => ({
      user,
      text,
      label,
    })),
  );
  await d.label(
    inquiries({ intents: INTENTS, users: 60, perUser: 2, seed: 2, prefix: 'held' }).map(({ user, text, label }) => ({
      user,
      text,
      label,
      split: 'holdout',
    })),
  );
  const round = await d.run([finetune]);
  assert.deepEqual([round.state, round.error], ['published', null]);
  const { champion, candidate } = round.verdict as Verdict;
  t.diagnostic(`weighted F1 ${champion.f1} -> ${candidate.f1} at epsilon ${round.epsilon}`);
  assert.ok(candidate.f1! > champion.f1! + 0.3 && candidate.f1! > 0.6, `${champion.f1} -> ${candidate.f1}`);
  assert.ok(round.epsilon > 3.9 && round.epsilon <= 4);
  const version = await getVersion(d.db, 2);
  const base = await getVersion(d.db, 1);
  const head = version.manifest.heads.intent!;
  assert.deepEqual(head.labels, [...INTENTS]);
  assert.equal(head.base, base.manifest.model.sha256);
  assert.equal(head.layer, 1, 'a third of the scratch model');
  assert.equal(version.manifest.model.sha256, base.manifest.model.sha256);
  assert.equal(candidate.perplexity, champion.perplexity);

  // A smaller language model changes no classification.
  const slim = await d.run([{ do: 'quantize', type: 'q8_0' }]);
  assert.equal(slim.state, 'published');
  assert.deepEqual((await getVersion(d.db, 3)).manifest.heads.intent, head);
  assert.equal((slim.verdict as Verdict).candidate.f1, candidate.f1);

  // The feature model was cut once.
  const again = await d.run([{ ...finetune, epsilon: 0.3, augment: true, go_on: true }]);
  assert.equal(again.state, 'published');
  // So little budget teaches next to nothing: what it knows it has from the champion's head.
  assert.match(
    workOf(again).notes!.join('\n'),
    /the head of intent goes on from that of learnd@3: 8 of 8 labels start from it/,
  );
  const kept = (again.verdict as Verdict).candidate.f1!;
  t.diagnostic(`a round at epsilon 0.3 that goes on: ${kept}`);
  assert.ok(kept > candidate.f1! - 0.2, `${candidate.f1} -> ${kept}`);
  assert.equal((await getVersion(d.db, 4)).manifest.heads.intent!.features.sha256, head.features.sha256);
  assert.deepEqual((await listLedger(d.db)).map(row => row.entry).reverse(), [
    'reserve',
    'declare',
    'settle',
    'declare',
    'declare',
    'reserve',
    'declare',
    'settle',
    'declare',
  ]);
});
