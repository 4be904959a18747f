import assert from 'node:assert/strict';
import test from 'node:test';
import type { Action, ActionOf } from '../../src/events/actions.ts';
import { programOf } from '../../src/loop/round/program.ts';
import { RECIPES, sampleRate } from '../../src/loop/round/recipes.ts';

const finetune = (change: Partial<ActionOf<'finetune'>> = {}): Action => ({
  do: 'finetune',
  data: 'feedback',
  method: 'auto',
  objective: 'auto',
  epsilon: 1,
  max_minutes: 20,
  ...change,
});
const method = (change: Partial<ActionOf<'finetune'>>): string => {
  const program = programOf([finetune(change)]);
  assert.equal(program.kind, 'candidate');
  return program.kind === 'candidate' ? program.finetunes[0]!.method : '';
};
const evaluate = { do: 'evaluate' } as unknown as Action;
const rollback = { do: 'rollback' } as unknown as Action;
const prune: Action = { do: 'prune', ffn: 1280, calibration: 'public' };
const quantize: Action = { do: 'quantize', type: 'q8_0' };

test('auto stays auto: what is trained is decided when the view is frozen and the cost planned', () => {
  assert.equal(method({}), 'auto');
  for (const named of ['head', 'norms', 'lora', 'full'] as const) assert.equal(method({ method: named }), named);
  assert.equal(method({ data: 'documents', epsilon: 2 }), 'auto');
  for (const named of ['bias', 'norms', 'lora', 'full'] as const)
    assert.equal(method({ data: 'documents', epsilon: 2, method: named }), named);
});

test('what makes no sense is refused with its field', () => {
  assert.throws(() => method({ data: 'documents', method: 'head' }), { code: 'invalid', field: 'method' });
  assert.throws(() => method({ data: 'documents', objective: 'classify' }), { code: 'invalid', field: 'objective' });
  assert.throws(() => method({ objective: 'next_token' }), { code: 'invalid', field: 'objective' });
  assert.throws(() => method({ data: 'documents', objective: 'preference' }), { code: 'invalid', field: 'objective' });
  assert.throws(() => method({ method: 'bias' }), { code: 'invalid', field: 'method' });
  assert.throws(() => method({ method: 'head', objective: 'instruct' }), { code: 'invalid', field: 'objective' });
  assert.throws(() => method({ epsilon: 'none' }), { code: 'forbidden', field: 'epsilon' });
  assert.throws(() => programOf([quantize, quantize]), { code: 'invalid', field: 'do' });
  assert.throws(() => programOf([rollback, quantize]), { code: 'invalid', field: 'do' });
});

test('what is not built is refused by name', () => {
  const later = (actions: Action[], name: RegExp) =>
    assert.throws(
      () => programOf(actions),
      (error: { code: string; message: string }) => {
        assert.equal(error.code, 'unavailable_feature');
        assert.match(error.message, name);
        return true;
      },
    );
  const recall = { recall: { task: 't', label: 'a' }, at_least: 0.5, hard: false };
  later([finetune({ augment: true, constraints: [recall] })], /a head with augment under constraints/);
  for (const more of [
    {},
    { method: 'lora', constraints: [recall] },
    { data: 'documents' },
    { objective: 'instruct' },
  ] as Parameters<typeof finetune>[0][]) {
    const made = programOf([finetune({ augment: true, ...more })]);
    assert.equal(made.kind === 'candidate' && made.finetunes[0]!.augment, true);
  }
  for (const [field, more] of [
    ['method', { data: 'documents', method: 'bias' }],
    ['objective', { objective: 'preference' }],
  ] as const)
    assert.throws(() => programOf([finetune({ augment: true, ...more })]), { code: 'invalid', field });
  later([quantize, prune], /quantize, prune/);
});

test('a chain is one candidate; evaluate beside it adds nothing; alone it only measures', () => {
  const program = programOf([finetune(), prune, evaluate, quantize, { do: 'notify', url: 'http://x' }]);
  assert.deepEqual(program, {
    kind: 'candidate',
    finetunes: [{ method: 'auto', data: 'feedback', objective: 'auto', epsilon: 1, minutes: 20, constraints: [] }],
    prune,
    distill: undefined,
    quantize,
  });
  assert.deepEqual(programOf([evaluate]), { kind: 'evaluate' });
  assert.deepEqual(programOf([rollback]), { kind: 'rollback' });
  assert.deepEqual(programOf([]), { kind: 'nothing' });
});

test('distill recovers what pruning took, before quantization; alone it needs a teacher', () => {
  const distill: Action = { do: 'distill', max_minutes: 1 };
  const program = programOf([prune, distill, quantize]);
  assert.deepEqual(program.kind === 'candidate' && program.distill, distill);
  assert.throws(() => programOf([distill]), { code: 'invalid', field: 'teacher' });
  assert.throws(() => programOf([prune, distill, distill]), { code: 'invalid', field: 'do' });
  assert.throws(() => programOf([prune, quantize, distill]), { code: 'unavailable_feature' });
  assert.equal(programOf([{ ...distill, teacher: '1' }]).kind, 'candidate');
});

test('pretrain goes on with all weights on documents, public ones where no epsilon is named, before anything else', () => {
  const program = programOf([{ do: 'pretrain' }, finetune(), prune]);
  assert.equal(program.kind, 'candidate');
  assert.deepEqual(program.kind === 'candidate' && program.finetunes[0], {
    ...{ method: 'full', data: 'documents', objective: 'next_token', epsilon: 'none', minutes: 20 },
    constraints: [],
  });
  const gaps = (action: Omit<Extract<Action, { do: 'pretrain' }>, 'do'>) => {
    const made = programOf([{ do: 'pretrain', ...action }]);
    return made.kind === 'candidate' ? made.finetunes[0]!.gaps : undefined;
  };
  assert.equal(gaps({ objective: 'causal' }), undefined);
  assert.deepEqual(gaps({ objective: 'masked' }), { kind: 'masked' });
  assert.deepEqual(gaps({ objective: 'mixed' }), { kind: 'mixed', share: 0.5, bidirectional: false });
  assert.deepEqual(gaps({ objective: 'mixed', masked_share: 0.2, bidirectional: true }), {
    ...{ kind: 'mixed', share: 0.2, bidirectional: true },
  });
  assert.throws(() => gaps({ masked_share: 0.2 }), { code: 'invalid', field: 'objective' });
  assert.throws(() => programOf([finetune(), { do: 'pretrain' }]), { code: 'unavailable_feature' });
  assert.throws(() => programOf([{ do: 'pretrain' }, { do: 'pretrain' }]), { code: 'invalid', field: 'do' });
});

test('the sampling rate comes from public constants and never passes 1', () => {
  for (const recipe of Object.values(RECIPES))
    for (const expected of [1, 200, 10_000]) {
      const rate = sampleRate(recipe, expected);
      assert.ok(rate > 0 && rate <= 1);
    }
  assert.equal(sampleRate(RECIPES.norms, 1000), 0.5);
});
