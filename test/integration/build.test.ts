import assert from 'node:assert/strict';
import { cpSync, existsSync, readFileSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import test from 'node:test';
import { oneLine } from '../../src/base/errors.ts';
import { type Built, run } from '../../src/cli/build.ts';
import { readBuild } from '../../src/cli/build-config.ts';
import { headF1 } from '../../src/cli/build-head.ts';
import { readTrainRows } from '../../src/cli/train-data.ts';
import { eventually, learnd, startTestDaemon, testFolder } from '../support/daemon.ts';

const EXAMPLES = resolve(import.meta.dirname, '../../examples');

/** The example with fewer steps: what it does is the same. */
function tiny(folder: string): string {
  cpSync(EXAMPLES, folder, { recursive: true, filter: from => !from.includes('/built') });
  const file = join(folder, 'build-tiny', 'build.yaml');
  const shorter = readFileSync(file, 'utf8')
    .replace('steps: 150', 'steps: 25')
    .replace('steps: 60', 'steps: 8')
    .replace('steps: 80', 'steps: 15')
    .replace('requests: 6, tokens: 16', 'requests: 2, tokens: 4')
    .replace('tokens: 24', 'tokens: 4');
  writeFileSync(file, shorter);
  return file;
}

test('the tiny example: every stage once, nothing twice, and the result is served', { timeout: 180_000 }, async t => {
  const folder = testFolder(t, 'build');
  const config = tiny(folder);
  const first = await learnd(['build', '--config', config, '--json']);
  assert.equal(first.code, 0, first.stderr);
  const built = JSON.parse(first.stdout) as Built;
  const names = ['tokenizer', 'pretrain', 'answers', 'prune', 'distill', 'quantize'];
  assert.deepEqual(
    built.stages.map(s => s.stage),
    names,
  );
  assert.ok(built.stages.every(s => !s.skipped));
  const measured = built.stages.slice(1).map(s => s.evaluation!);
  for (const e of measured) assert.ok(e.perplexity! > 1 && e.error_rate === 0 && e.rouge_l! >= 0, JSON.stringify(e));
  // A model this young may say nothing at all, and nothing has no speed.
  assert.ok(measured.every(e => (e.tokens_per_second ?? 1) > 0));
  assert.ok(measured[2]!.size_mb < measured[1]!.size_mb && measured[4]!.size_mb < 0.5 * measured[3]!.size_mb);
  const distilled = built.stages[4]!.facts as { first_loss: number; last_loss: number };
  assert.ok(distilled.last_loss >= 0 && distilled.last_loss < distilled.first_loss + 0.05);
  for (const file of ['pretrain/loss.svg', 'answers/loss.json', 'distill/loss.svg', 'model.gguf'])
    assert.ok(existsSync(join(built.out, file)), file);

  const second = await run({ config });
  assert.ok(second.stages.every(s => s.skipped));
  assert.deepEqual(
    second.stages.map(s => s.evaluation),
    built.stages.map(s => s.evaluation),
  );
  // What follows a change is done again, what lies before it is not; a damaged output is made anew.
  writeFileSync(config, readFileSync(config, 'utf8').replace('type: q8_0', 'type: f16'));
  rmSync(join(built.out, 'distill', 'model.gguf'));
  const third = await run({ config });
  assert.deepEqual(
    third.stages.map(s => s.skipped),
    [true, true, true, true, false, false],
  );
  assert.equal(third.stages[4]!.evaluation!.perplexity, built.stages[4]!.evaluation!.perplexity);
  assert.ok(statSync(third.model).size > 1.5 * built.stages[5]!.evaluation!.size_mb * 1e6);

  // A head on what was built: far above chance (one of eight), though it was built from other text.
  const [train, held] = ['intents.csv', 'intents-held-out.csv'].map(name =>
    readTrainRows(join(EXAMPLES, 'build-domain', name), { label: 'label' }).map(row => ({
      text: row.text,
      label: row.label!,
    })),
  );
  const f1 = (await headF1(third.model, { train: train!, test: held! }))!;
  assert.ok(f1 > 0.3 && f1 <= 1, String(f1));

  const data = testFolder(t, 'build-served');
  const daemon = await startTestDaemon(t, {
    data,
    settings: `base: ${third.model}\n`,
    policies: 'rules: []\n',
    readyMs: 60_000,
  });
  await eventually(
    'an answer',
    async () => {
      const said = (await daemon.post('/v1/responses', {
        model: 'learnd',
        input: 'When do you open?',
        max_output_tokens: 4,
      })) as {
        output?: unknown[];
      };
      return said.output !== undefined || undefined;
    },
    30_000,
  );
});

test('a typo is told with line, column and field', t => {
  const folder = testFolder(t, 'build-typo');
  const file = join(folder, 'build.yaml');
  const refused = (text: string, says: string) => {
    writeFileSync(file, text);
    assert.throws(
      () => readBuild(file),
      error => {
        assert.equal((error as { code?: string }).code, 'invalid');
        assert.equal(oneLine(error).split(' (')[0]!.replaceAll(file, 'FILE').includes(says), true, oneLine(error));
        return true;
      },
    );
  };
  refused(
    'text: a.txt\npretrian: { steps: 3 }\n',
    'FILE:2:1: pretrian: there is no such setting; did you mean pretrain?',
  );
  refused(
    'text: a.txt\npretrain: { stpes: 3 }\n',
    'FILE:2:13: pretrain.stpes: there is no such setting; did you mean steps?',
  );
  refused('text: a.txt\npretrain: { steps: 0 }\n', 'FILE:2:20: pretrain.steps: ');
  refused(
    'text: a.txt\nfinetune:\n  - { file: b, metod: lora }\n',
    'FILE:3:16: finetune.0.metod: there is no such setting; did you mean method?',
  );
  refused(
    'text: a.txt\nfinetune: { fil: b }\n',
    'FILE:2:13: finetune.fil: there is no such setting; did you mean file?',
  );
  refused(
    'text: a.txt\nevaluate: { speed: { request: 3 } }\n',
    'FILE:2:22: evaluate.speed.request: there is no such setting; did you mean requests?',
  );
  refused('out: x\n', 'name text to learn from, or a base model');
  refused('base: m\npretrain: {}\n', 'FILE:2:11: pretrain: a base model has');
  refused('text: a\ndistill: {}\n', 'FILE:2:10: distill: without prune');
  refused('text: [a\n', 'not valid YAML');
});

test('the configuration that ships, and the examples, are read', () => {
  for (const file of [
    '../config/build.yaml',
    'build-tiny/build.yaml',
    'build-domain/build.yaml',
    'build-student/build.yaml',
  ]) {
    const build = readBuild(join(EXAMPLES, file));
    for (const input of [...build.text, ...build.finetunes.map(f => f.file), ...(build.distill?.file ?? [])])
      assert.ok(existsSync(input), input);
  }
});
