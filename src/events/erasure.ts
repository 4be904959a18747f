import { z } from 'zod';
import { context } from './context.ts';
import { identifier } from './text.ts';

/** `learnd.erasure`: a person asks to be forgotten. */
export const erasure = () => {
  const { user: _optional, ...rest } = context();
  return z.strictObject({
    user: identifier(256),
    reason: identifier(1024).optional(),
    ...rest,
  });
};

export type Erasure = z.infer<ReturnType<typeof erasure>>;
