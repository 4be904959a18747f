import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import test, { type TestContext } from 'node:test';
import { human, type PolicyReport, run } from '../../src/cli/policy.ts';

const root = join(import.meta.dirname, '../..');
function written(t: TestContext, text: string): string {
  const folder = mkdtempSync(join(tmpdir(), 'learnd-policy-'));
  t.after(() => rmSync(folder, { recursive: true, force: true }));
  const file = join(folder, 'p.yaml');
  writeFileSync(file, text);
  return file;
}
const learnd = (...args: string[]) =>
  spawnSync(process.execPath, [join(root, 'bin/learnd.mjs'), ...args], { cwd: tmpdir(), encoding: 'utf8' });

test('policy check: exit code, one JSON document, every mistake with its place', t => {
  const file = written(t, 'rules:\n  - name: r\n    when: f1.alrm\n    do: [evaluate]\nbudgt: {}\n');
  const { status, stdout } = learnd('policy', 'check', file, '--json');
  assert.equal(status, 1);
  const report = JSON.parse(stdout) as PolicyReport;
  assert.equal(report.valid, false);
  assert.deepEqual(
    report.findings.map(f => [f.severity, f.line, f.column, f.message]),
    [
      ['error', 3, 11, 'unknown signal f1.alrm; did you mean f1.alarm?'],
      ['error', 5, 1, 'unknown key "budgt"; did you mean "budget"?'],
    ],
  );
});

test('policy check: a valid file, for a person, with its defaults', async t => {
  const file = written(
    t,
    'rules:\n  - name: r\n    when: f1.alarm\n    do: [evaluate]\nalarms: { false_per_month: 2 }\n',
  );
  const text = human(await run({ file }));
  assert.deepEqual(text.split('\n'), [
    `${file}:5:11: warning: alarms are not calibrated to a rate in this version: the detectors run with river's defaults`,
    `${file}: valid, 1 rule (r)`,
    'Where the file says nothing:',
    '  gate: ["candidate.perplexity <= champion.perplexity * 1.02","candidate.f1 >= champion.f1 - 0.01"]',
    '  budget: {"epsilon":8,"delta":0.000001,"unit":"user","window":"none"}',
    '  constraints: []',
    '  rules: {"cooldown":"10m","timezone":"UTC"}',
  ]);
  assert.equal(learnd('policy', 'check', file).status, 0);
});

test('policy check: a file that is not there; what is built later is refused by name', () => {
  const missing = learnd('policy', 'check', 'nowhere.yaml');
  assert.notEqual(missing.status, 0);
  assert.match(missing.stderr, /^learnd: .*cannot read the policy file nowhere\.yaml/);
  for (const name of ['explain', 'backtest']) {
    const refused = learnd('policy', name);
    assert.equal(refused.status, 1);
    assert.match(refused.stderr, new RegExp(`^learnd: policy ${name} is not available in this version`));
  }
});
