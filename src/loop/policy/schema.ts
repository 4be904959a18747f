import { z } from 'zod';

/** The structure of config/policies.yaml. Expressions, schedules and actions are strings and mappings here; parse.ts reads them. */

/** YAML reads a bare `true` as a boolean; as an expression it means the same. */
const expression = z.union([z.string().trim().min(1).max(4096), z.boolean()], { error: 'must be a CEL expression' });
const duration = z.string({ error: 'must be a duration such as 30s, 90m, 6h, 7d' });

const rule = z.strictObject({
  name: z.string().regex(/^[\w][\w.-]{0,63}$/, 'must be letters, digits, "_", "." and "-" (at most 64)'),
  when: expression.optional(),
  require: expression.optional(),
  schedule: z.string().optional(),
  timezone: z.string().optional(),
  do: z.array(z.unknown()).min(1, 'must list at least one action'),
  cooldown: duration.optional(),
});

export const policySchema = z.strictObject({
  rules: z.array(rule),
  gate: z.array(expression).optional(),
  budget: z
    .strictObject({
      epsilon: z.number().positive().max(1000).optional(),
      delta: z.number().gt(0).lt(1).optional(),
      unit: z.literal('user').optional(),
      window: duration.optional(),
    })
    .optional(),
  alarms: z.strictObject({ false_per_month: z.number().positive().optional() }).optional(),
});

/** In the contract, but built by later work: refused by name wherever they stand. */
export const LATER = new Set(['constraints', 'approvals', 'canary', 'shadow']);

export type RawPolicy = z.infer<typeof policySchema>;
