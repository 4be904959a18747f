import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import test from 'node:test';
import { LearndError } from '../../src/base/errors.ts';
import type { ActionOf } from '../../src/events/actions.ts';
import { parsePolicy, policyCheck } from '../../src/loop/policy/parse.ts';

const settings = {
  tasks: [{ name: 'intent', labels: ['balance', 'transfer'] }],
  sources: [{ name: 'newsroom', public: true }],
};
const check = (text: string, given: Parameters<typeof policyCheck>[1] = { settings }) => policyCheck(text, given);
/** `line:column message` of every mistake, or of every warning. */
const said = (text: string, severity: 'error' | 'warning' = 'error', given?: Parameters<typeof policyCheck>[1]) =>
  check(text, given)
    .findings.filter(f => f.severity === severity)
    .map(f => `${f.line}:${f.column} ${f.message}`);

/** A rule with one line replaced. */
const rule = (lines: Record<string, string> = {}): string => {
  const parts: Record<string, string> = { when: 'f1.alarm', do: '[evaluate]', ...lines };
  return `rules:\n  - name: r\n${Object.entries(parts)
    .map(([key, value]) => `    ${key}: ${value}\n`)
    .join('')}`;
};

test('the policy of the contract is valid but for what is built later', () => {
  const text = `rules:
  - name: refresh-on-drift
    when: f1.alarm
    require: feedback.new >= 200
    do:
      - finetune: { data: feedback, method: auto, epsilon: 0.5, max_minutes: 20 }
    cooldown: 6h
  - name: read-the-news
    when: perplexity.alarm
    require: documents.new >= 500
    do:
      - finetune: { data: documents, method: lora, epsilon: 1, max_minutes: 20 }
  - name: nightly-slim
    schedule: "30 3 * * *"
    timezone: Europe/Berlin
    when: latency.p95_ms > 800
    do:
      - prune: { ffn: 1280, drop_layers: 2 }
      - distill: { max_minutes: 30 }
      - quantize: { type: q8_0 }
gate:
  - candidate.perplexity <= champion.perplexity * 1.02
  - candidate.f1 >= champion.f1 - 0.01
budget: { epsilon: 8, delta: 1e-6, unit: user, window: 365d }
alarms: { false_per_month: 1 }
`;
  const result = check(text);
  assert.equal(result.valid, true);
  assert.deepEqual(
    result.findings.map(f => [f.severity, f.line, f.path]),
    [
      ['warning', 24, 'budget.window'],
      ['warning', 25, 'alarms.false_per_month'],
    ],
  );
  const { rules, budget } = result.policy!;
  assert.deepEqual(rules[0]!.actions, [
    { do: 'finetune', data: 'feedback', method: 'auto', objective: 'auto', epsilon: 0.5, max_minutes: 20 },
  ]);
  assert.equal(rules[0]!.cooldownMs, 6 * 3_600_000);
  assert.equal(rules[1]!.cooldownMs, 600_000);
  assert.deepEqual(budget, { epsilon: 8, delta: 1e-6, unit: 'user', windowMs: 365 * 86_400_000 });

  assert.deepEqual(said(`${text}constraints:\n  - name: eu-consent\n`), [
    '26:1 constraints is not available in this version',
  ]);
  assert.deepEqual(said(`${text}approvals: []\n`), ['26:1 approvals is not available in this version']);
});

test('the policy that ships with learnd is valid without a word, and its defaults are printed', () => {
  const text = readFileSync(join(import.meta.dirname, '../../config/policies.yaml'), 'utf8');
  const result = check(text);
  assert.deepEqual(result.findings, []);
  assert.deepEqual(check('rules: []').defaults, {
    gate: ['candidate.perplexity <= champion.perplexity * 1.02', 'candidate.f1 >= champion.f1 - 0.01'],
    budget: { epsilon: 8, delta: 1e-6, unit: 'user', window: 'none' },
    alarms: { false_per_month: "none (river's defaults)" },
    constraints: [],
    rules: { cooldown: '10m', timezone: 'UTC' },
  });
});

const mistakes: Array<[what: string, text: string, expected: string[]]> = [
  ['a typo in a signal', rule({ when: 'f1.alrm' }), ['3:11 unknown signal f1.alrm; did you mean f1.alarm?']],
  [
    'a typo in a group',
    rule({ when: 'feedbak.new > 3' }),
    ['3:11 unknown signal feedbak.new; did you mean feedback.new?'],
  ],
  [
    'two unknown signals in one line',
    rule({ when: 'f1.alarm && feedback.nwe > 2 || latency.p96_ms > 1' }),
    [
      '3:23 unknown signal feedback.nwe; did you mean feedback.new?',
      '3:43 unknown signal latency.p96_ms; did you mean latency.p95_ms?',
    ],
  ],
  [
    'a signal of no kind',
    rule({ when: 'weather.rain' }),
    [
      '3:11 unknown signal weather.rain; the groups are feedback, documents, perplexity, f1, latency, errors, budget, champion, round, rounds, time',
    ],
  ],
  ['a group alone', rule({ when: 'errors' }), ['3:11 errors is a group of signals: name one of errors.rate']],
  [
    'candidate outside the gate',
    rule({ when: 'candidate.epsilon > 1' }),
    ['3:11 unknown signal candidate.epsilon; candidate.… is known in gate only'],
  ],
  ['a wrong type', rule({ when: 'f1.alarm > 3' }), ['3:11 wrong types: bool > int (f1.alarm is bool)']],
  [
    'text against a number',
    rule({ when: 'f1.alarm && feedback.new >= "x"' }),
    ['3:23 wrong types: int >= string (f1.alarm is bool, feedback.new is int)'],
  ],
  [
    'not a boolean',
    rule({ when: 'feedback.new' }),
    ['3:11 must be true or false, but it is of type int (feedback.new is int)'],
  ],
  [
    'words for operators',
    rule({ when: '"f1.alarm and round.running"' }),
    ["3:21 not a CEL expression: unexpected character: 'd' (CEL writes && for and, || for or, ! for not)"],
  ],
  [
    'an assignment',
    rule({ when: 'f1.value = 3' }),
    ['3:20 not a CEL expression: unexpected character: = (CEL compares with ==)'],
  ],
  [
    'inside quotes',
    rule({ when: `'f1.alarm && f1.valeu > 0.5'` }),
    ['3:24 unknown signal f1.valeu; did you mean f1.value?'],
  ],
  [
    'inside a block',
    'rules:\n  - name: r\n    when: |\n      f1.alarm &&\n        f1.nothing > 1\n    do: [evaluate]\n',
    ['5:9 unknown signal f1.nothing; f1 has value, reference, alarm'],
  ],
  ['a YAML tag', rule({ when: '!f1.alarm' }), ['3:11 YAML reads a leading "!" as a tag: put the expression in quotes']],
  [
    'broken YAML',
    'rules: [\n',
    ['2:1 not valid YAML: flow sequence in block collection must be sufficiently indented and end with a ]'],
  ],
  ['a key twice', 'rules: []\nrules: []\n', ['2:1 not valid YAML: map keys must be unique']],
  ['not a mapping', '- a\n', ['1:1 a policy is a mapping with the key "rules"']],
  ['empty', '', ['1:1 a policy is a mapping with the key "rules"']],
  ['no rules', 'gate: [true]\n', ['1:1 "rules" is missing']],
  ['a typo at the top', `${rule()}budgt: {}\n`, ['5:1 unknown key "budgt"; did you mean "budget"?']],
  [
    'a typo in a rule',
    'rules:\n  - name: r\n    wen: f1.alarm\n    do: [evaluate]\n',
    ['3:5 unknown key "wen"; did you mean "when"?'],
  ],
  [
    'a rule without a start',
    'rules:\n  - name: r\n    do: [evaluate]\n',
    ['2:5 rule "r" needs "when" or "schedule": nothing would ever start it'],
  ],
  [
    'a name twice',
    `${rule()}  - name: r\n    when: true\n    do: [rollback]\n`,
    ['5:11 rule "r" is already on line 2'],
  ],
  [
    'a cooldown',
    rule({ cooldown: '6 hours' }),
    ['5:15 "6 hours" is not a duration: write 30s, 90m, 6h or 7d, more than 0'],
  ],
  [
    'a cooldown of nothing',
    rule({ cooldown: '0s' }),
    ['5:15 "0s" is not a duration: write 30s, 90m, 6h or 7d, more than 0'],
  ],
  [
    'a schedule',
    rule({ schedule: '"61 * * * *"' }),
    ['5:15 not a schedule: minute: 61 is a invalid expression for minute'],
  ],
  [
    'seconds in a schedule',
    rule({ schedule: '"0 30 3 * * *"' }),
    ['5:15 a schedule has five fields (minute hour day-of-month month day-of-week), this one has 6'],
  ],
  [
    'a zone',
    rule({ timezone: 'Europe/Berln' }),
    ['5:15 unknown time zone "Europe/Berln" (IANA names, such as Europe/Berlin)'],
  ],
  ['no actions', rule({ do: '[]' }), ['4:9 do: must list at least one action']],
  ['an action', rule({ do: '[{ fintune: {} }]' }), ['4:12 unknown action "fintune"; did you mean "finetune"?']],
  [
    'two actions in one',
    rule({ do: '[{ prune: { ffn: 1 }, evaluate: {} }]' }),
    ['4:10 an action is one name with its parameters, such as "- quantize: { type: q8_0 }"'],
  ],
  [
    'parameters',
    rule({ do: '[{ finetune: { data: feedback, metod: head, epsilon: 0 } }, { quantize: { type: q7 } }]' }),
    [
      '4:40 unknown key "metod"; did you mean "method"?',
      '4:62 epsilon: too small: expected number to be >0',
      '4:89 type: invalid option: expected one of "f32"|"f16"|"bf16"|"q8_0"|"q5_0"|"q5_1"|"q4_0"|"q4_1"|"q4_k"|"q5_k"|"q6_k"',
    ],
  ],
  ['a missing parameter', rule({ do: '[{ finetune: { data: feedback } }]' }), ['4:22 "epsilon" is missing']],
  [
    'a prune of nothing',
    rule({ do: '[{ prune: {} }]' }),
    ['4:19 prune needs ffn (width kept) or drop_layers (number dropped)'],
  ],
  [
    'noise off on feedback',
    rule({ do: '[{ finetune: { data: feedback, epsilon: none } }]' }),
    ['4:49 feedback is private: epsilon: none is for documents from sources declared public'],
  ],
  [
    'more than the budget',
    rule({ do: '[{ finetune: { data: feedback, epsilon: 9 } }]' }),
    ['4:49 epsilon 9 is more than the whole budget of 8: every such round would be refused'],
  ],
  [
    'a head on documents',
    rule({ do: '[{ finetune: { data: documents, method: head, epsilon: 1 } }]' }),
    ['4:49 documents have no labels: a head is trained on feedback'],
  ],
  [
    'go_on without a head',
    rule({ do: '[{ finetune: { data: documents, epsilon: 1, go_on: true } }]' }),
    ['4:60 go_on is for heads; the language model always goes on from the champion'],
  ],
  [
    'rollback in a chain',
    rule({ do: '[{ prune: { ffn: 8 } }, rollback]' }),
    ['4:33 rollback makes no candidate: it stands alone, or beside notify'],
  ],
  [
    'a file as notify',
    rule({ do: '[{ notify: { url: "file:///etc/passwd" } }]' }),
    ['4:27 url: must be an http or https address'],
  ],
  [
    'a gate line',
    `${rule()}gate:\n  - candidate.f1 >= champion.f2\n`,
    ['6:21 unknown signal champion.f2; did you mean champion.f1?'],
  ],
  [
    'the budget',
    `${rule()}budget: { epsilon: -1, unit: record }\n`,
    ['5:20 epsilon: too small: expected number to be >0', '5:30 unit: expected "user"'],
  ],
];

for (const [what, text, expected] of mistakes)
  test(`a mistake has its line and column: ${what}`, () => {
    assert.deepEqual(said(text), expected);
    assert.equal(check(text).policy, undefined);
  });

test('every mistake is reported at once', () => {
  const text = `rules:
  - name: a
    when: f1.alrm
    do: [{ quantze: { type: q8_0 } }]
    cooldwn: 6h
  - name: b
    when: feedback.new
    do: []
gte: []
`;
  assert.deepEqual(
    said(text).map(line => line.split(' ')[0]),
    ['3:11', '4:12', '5:5', '7:11', '8:9', '9:1'],
  );
});

test('noise may be left out only where settings declare a public source', () => {
  const text = rule({ do: '[{ finetune: { data: documents, epsilon: none } }]' });
  assert.equal(check(text).valid, true);
  assert.match(
    said(text, 'error', { settings: { ...settings, sources: [{ name: 'newsroom', public: false }] } })[0]!,
    /^4:50 .*settings declare no public source/,
  );
  // Without settings (a file checked by itself) nothing is claimed.
  assert.equal(check(text, {}).valid, true);
});

test('private calibration says what it may cost, public calibration nothing', () => {
  const at = (prune: string) => said(rule({ do: `[{ prune: ${prune} }]` }), 'error');
  assert.deepEqual(at('{ ffn: 256, calibration: private, epsilon: 2 }'), []);
  assert.match(at('{ ffn: 256, calibration: private }')[0]!, /^4:\d+ .*say what it may cost/);
  assert.match(at('{ ffn: 256, epsilon: 2 }')[0]!, /^4:\d+ .*belongs to calibration: private/);
  assert.match(at('{ ffn: 256, calibration: private, epsilon: 99 }')[0]!, /more than the whole budget/);
});

test('what is in the contract and not built is accepted with a warning', () => {
  for (const [action, what] of [
    [
      '{ finetune: { data: feedback, epsilon: 1, augment: true, constraints: [{ kl_to_base: 0.05 }] } }',
      'a head with augment under constraints',
    ],
  ])
    assert.deepEqual(said(rule({ do: `[${action}]` }), 'warning'), [
      `4:9 ${what} is not available in this version: a round with it will be refused`,
    ]);
});

test('augment: for labels, corrections and documents; where it makes no sense, the reason', () => {
  for (const action of [
    'data: feedback',
    'data: feedback, method: lora',
    'data: documents',
    'data: feedback, objective: instruct',
  ])
    assert.deepEqual(said(rule({ do: `[{ finetune: { ${action}, epsilon: 1, augment: true } }]` }), 'warning'), []);
  for (const [action, reason] of [
    ['data: documents, method: bias', /a histogram counts the words as they were written/],
    ['data: feedback, objective: preference', /nobody has judged a variant/],
  ] as const)
    assert.match(said(rule({ do: `[{ finetune: { ${action}, epsilon: 1, augment: true } }]` }))[0]!, reason);
});

test('constraints: read with their defaults; each mistake at its place', () => {
  const finetune = (constraint: string, more = '') =>
    rule({ do: `[{ finetune: { data: feedback, epsilon: 1, ${more}constraints: [${constraint}] } }]` });
  const { actions } = parsePolicy(finetune('{ kl_to_base: 0.05 }'), { file: 'p.yaml', settings }).rules[0]!;
  assert.deepEqual((actions[0] as ActionOf<'finetune'>).constraints, [{ kl_to_base: 0.05, hard: false }]);
  for (const [constraint, expected] of [
    ['{ kl_to_base: -1 }', /kl_to_base: too small: expected number to be >0/],
    ['{ kl_to_bas: 1 }', /must name one of kl_to_base, forbidden, recall, gap/],
    ['{ kl_to_base: 1, harde: true }', /unknown key "harde"; did you mean "hard"\?/],
    ['{ forbidden: { texts: [] }, probability: 0.1 }', /texts: /],
    ['{ forbidden: {}, probability: 0.1 }', /needs texts, patterns or personal/],
    ['{ forbidden: { patterns: ["my PIN is \\\\d+"] }, probability: 0.1 }', /character 13: \+ has no end/],
    ['{ forbidden: { patterns: ["\\\\d{4}"] }, probability: 0.1 }', /needs a prompt, or a beginning/],
    ['{ forbidden: { personal: [name] }, probability: 0.1 }', /expected one of "email"/],
    ['{ forbidden: { texts: ["a b"] } }', /"probability" is missing/],
    ['{ recall: { task: intnt, label: balance }, at_least: 0.8 }', /no task "intnt"; did you mean "intent"\?/],
    ['{ recall: { task: intent, label: balanc }, at_least: 0.8 }', /no label "balanc"; did you mean "balance"\?/],
    ['{ gap: { task: intent }, at_most: 0.1 }', /needs either labels .* or regions/],
    ['{ gap: { task: intent, labels: { a: [balance], b: [nope] } }, at_most: 0.1 }', /no label "nope"/],
  ] as const) {
    const [line, ...others] = said(finetune(constraint), 'error');
    assert.match(line!, /^4:\d+ /, constraint);
    assert.match(line!, expected);
    assert.deepEqual(others, [], constraint);
  }
  assert.match(
    said(
      finetune('{ recall: { task: intent, label: balance }, at_least: 0.8 }').replace(
        'data: feedback',
        'data: documents',
      ),
      'error',
    )[0]!,
    /documents have no labels: recall is for rounds on feedback/,
  );
  assert.match(
    said(finetune('{ kl_to_base: 1 }', 'method: head, '), 'warning')[0]!,
    /a head leaves the language model/,
  );
});

test('parsePolicy throws the first mistake with its place and carries all of them', () => {
  assert.throws(
    () => parsePolicy(rule({ when: 'f1.alrm', timezone: 'Nowhere' }), { file: 'p.yaml', settings }),
    (error: unknown) => {
      assert.ok(error instanceof LearndError);
      assert.equal(error.code, 'invalid');
      assert.equal(error.message, 'p.yaml:3:11: unknown signal f1.alrm; did you mean f1.alarm? (and 1 more)');
      assert.equal((error.data!.findings as unknown[]).length, 2);
      return true;
    },
  );
});
