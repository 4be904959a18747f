import { z } from 'zod';

/** What a rule may do, as written in config/policies.yaml and stored with a round. A list of actions is one round. */

const minutes = z.number().positive().max(10_080);
/** The privacy cost asked for; `none`: no noise, public documents only. */
const epsilon = z.union([z.number().positive().max(1000), z.literal('none')], {
  error: 'must be a positive number, or none',
});

const probability = (what: string) => z.number().gt(0, what).lt(1, what);
const between = 'must lie between 0 and 1';
const hard = z.boolean().default(false);

const probe = z.union([
  z.string().min(2).max(4096),
  z.strictObject({ prompt: z.string().min(1).max(4096), text: z.string().min(1).max(4096) }),
]);
/** A form of text (learn/training/constraints/pattern.ts says which), alone or as the answer to a prompt. */
const form = z.string().min(1).max(256);
const pattern = z.union([form, z.strictObject({ prompt: z.string().min(1).max(4096), pattern: form })]);
/** Personal data that has a form. */
export const PERSONAL_KINDS = ['email', 'ip', 'iban', 'card', 'phone'] as const;
export type PersonalKind = (typeof PERSONAL_KINDS)[number];
const name = z.string().min(1).max(256);

/** Each is one mapping: the constraint and its bound. `hard`: not met, the candidate is not let through. */
const CONSTRAINTS = {
  kl_to_base: z.strictObject({ kl_to_base: z.number().positive().max(100), hard }),
  forbidden: z.strictObject({
    forbidden: z
      .strictObject({
        texts: z.array(probe).min(1).max(64).optional(),
        patterns: z.array(pattern).min(1).max(16).optional(),
        personal: z.array(z.enum(PERSONAL_KINDS)).min(1).optional(),
      })
      .refine(({ texts, patterns, personal }) => (texts ?? patterns ?? personal) !== undefined, {
        error: 'needs texts, patterns or personal',
      }),
    probability: probability(between),
    hard,
  }),
  recall: z.strictObject({
    recall: z.strictObject({ task: name, label: name }),
    at_least: probability(between),
    hard,
  }),
  gap: z.strictObject({
    gap: z
      .strictObject({
        task: name,
        /** Groups of labels by their names, or regions. */
        labels: z.record(name, z.array(name).min(1)).optional(),
        regions: z.array(name).min(2).max(16).optional(),
      })
      .refine(gap => (gap.labels === undefined) !== (gap.regions === undefined), {
        error: 'needs either labels (a name and its labels for each group) or regions',
      })
      .refine(gap => gap.labels === undefined || Object.keys(gap.labels).length > 1, {
        path: ['labels'],
        error: 'needs at least two groups',
      }),
    at_most: probability(between),
    hard,
  }),
} as const;
export const CONSTRAINT_KINDS = Object.keys(CONSTRAINTS) as (keyof typeof CONSTRAINTS)[];
export const CONSTRAINT_SHAPES = CONSTRAINTS;
export type Constraint = {
  [K in keyof typeof CONSTRAINTS]: Readonly<z.infer<(typeof CONSTRAINTS)[K]>>;
}[keyof typeof CONSTRAINTS];

/** The kind decides the shape, so that a mistake is told about the kind that was meant. */
const constraint = z.record(z.string(), z.unknown()).transform((raw, context): Constraint => {
  const kind = CONSTRAINT_KINDS.find(candidate => candidate in raw);
  if (kind === undefined) {
    const message = `must name one of ${CONSTRAINT_KINDS.join(', ')}`;
    context.issues.push({ code: 'custom', message, input: raw });
    return z.NEVER;
  }
  const result = CONSTRAINTS[kind].safeParse(raw);
  if (result.success) return result.data;
  for (const issue of result.error.issues) context.issues.push(issue as never);
  return z.NEVER;
});

const finetune = z.strictObject({
  data: z.enum(['feedback', 'documents']),
  method: z.enum(['auto', 'head', 'bias', 'norms', 'lora', 'full']).default('auto'),
  objective: z.enum(['auto', 'next_token', 'instruct', 'classify', 'preference']).default('auto'),
  epsilon,
  max_minutes: minutes.default(20),
  augment: z.boolean().optional(),
  /** Against forgetting, on public text: share of each step that replays it, and weight of the KL to the base. */
  replay: z.number().min(0).max(0.9).optional(),
  kl: z.number().min(0).max(100).optional(),
  /** Decay of an average of the iterates, which is then what is kept. */
  ema: z.number().min(0).lt(1).optional(),
  /** Of a head: start from the champion's, label by label, instead of the labels' names. */
  go_on: z.boolean().optional(),
  constraints: z.array(constraint).min(1).max(16).optional(),
});

/** What is pre-trained: the next word; gaps, both sides seen; or both through one head. */
export const PRETRAIN_OBJECTIVES = ['causal', 'masked', 'mixed'] as const;

const pretrain = z.strictObject({
  max_minutes: minutes.optional(),
  epsilon: epsilon.optional(),
  objective: z.enum(PRETRAIN_OBJECTIVES).optional(),
  /** Of `mixed`: share of the sequences that have gaps, and whether those see both sides. */
  masked_share: z.number().gt(0).max(1).optional(),
  bidirectional: z.boolean().optional(),
});

const prune = z.strictObject({
  /** Feed-forward width kept in every layer. */
  ffn: z.number().int().min(1).optional(),
  /** Number of whole layers removed. */
  drop_layers: z.number().int().min(1).optional(),
  calibration: z.enum(['public', 'private']).default('public'),
  /** What private calibration may cost: its statistics are one noised release. */
  epsilon: z.number().positive().max(1000).optional(),
});

const distill = z.strictObject({ teacher: z.string().min(1).optional(), max_minutes: minutes.default(20) });

export const QUANTIZATIONS = [
  'f32',
  'f16',
  'bf16',
  'q8_0',
  'q5_0',
  'q5_1',
  'q4_0',
  'q4_1',
  'q4_k',
  'q5_k',
  'q6_k',
] as const;
const quantize = z.strictObject({ type: z.enum(QUANTIZATIONS) });

const nothing = z.strictObject({});

const notify = z.strictObject({
  url: z.url({ protocol: /^https?$/, error: 'must be an http or https address' }).max(2048),
});

export const ACTIONS = {
  finetune,
  pretrain,
  prune,
  distill,
  quantize,
  evaluate: nothing,
  rollback: nothing,
  notify,
} as const;
export type ActionName = keyof typeof ACTIONS;

/** One action with its defaults filled in: `{do: 'finetune', data, method, …}`. */
export type Action = { [K in ActionName]: { readonly do: K } & Readonly<z.infer<(typeof ACTIONS)[K]>> }[ActionName];

/** What is wrong with a prune action's calibration, and of which parameter. */
export function calibrationFault({
  calibration,
  epsilon,
}: {
  readonly calibration: 'public' | 'private';
  readonly epsilon?: number | undefined;
}): readonly ['epsilon', string] | undefined {
  if (calibration === 'private' && epsilon === undefined)
    return [
      'epsilon',
      'calibration: private releases statistics of private documents: say what it may cost, e.g. epsilon: 1',
    ];
  if (calibration === 'public' && epsilon !== undefined)
    return ['epsilon', 'belongs to calibration: private; public text costs nothing'];
  return undefined;
}

export type ActionOf<K extends ActionName> = Extract<Action, { do: K }>;

/** What of `augment` this version cannot do. */
export function augmentNotBuilt(action: ActionOf<'finetune'>): string | undefined {
  const { augment, data, method, objective, constraints = [] } = action;
  if (augment !== true || data === 'documents') return undefined;
  const head = method === 'head' || (method === 'auto' && (objective === 'auto' || objective === 'classify'));
  // A head's would count right answers of a user's variants.
  return head && constraints.length > 0 ? 'a head with augment under constraints' : undefined;
}

/** Why `augment` makes no sense with the other parameters: one of them, and the reason. */
export function augmentSenseless(action: ActionOf<'finetune'>): ['method' | 'objective', string] | undefined {
  const { augment, method, objective } = action;
  if (augment !== true) return undefined;
  if (method === 'bias')
    return ['method', 'a histogram counts the words as they were written: bias has nothing to augment'];
  if (objective === 'preference')
    return [
      'objective',
      'a preference or rating judges the answer to that very prompt, and nobody has judged a variant: preference goes without augment',
    ];
  return undefined;
}
