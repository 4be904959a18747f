import { z } from 'zod';

/** What a rule may do, as written in config/policies.yaml and stored with a round. A list of actions is one round. */

const minutes = z.number().positive().max(10_080);
/** The privacy cost asked for; `none`: no noise, public documents only. */
const epsilon = z.union([z.number().positive().max(1000), z.literal('none')], {
  error: 'must be a positive number, or none',
});

const finetune = z.strictObject({
  data: z.enum(['feedback', 'documents']),
  method: z.enum(['auto', 'head', 'bias', 'norms', 'lora', 'full']).default('auto'),
  objective: z.enum(['auto', 'next_token', 'instruct', 'classify', 'preference']).default('auto'),
  epsilon,
  max_minutes: minutes.default(20),
  augment: z.boolean().optional(),
});

const pretrain = z.strictObject({ max_minutes: minutes.optional(), epsilon: epsilon.optional() });

const prune = z.strictObject({
  /** Feed-forward width kept in every layer. */
  ffn: z.number().int().min(1).optional(),
  /** Number of whole layers removed. */
  drop_layers: z.number().int().min(1).optional(),
  calibration: z.enum(['public', 'private']).default('public'),
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

export type ActionOf<K extends ActionName> = Extract<Action, { do: K }>;
