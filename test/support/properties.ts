import fc from 'fast-check';

/**
 * fast-check as the tests use it: the same cases every time, so that what passes once passes again and a failure can be repeated.
 * `LEARND_TEST_SEED=random` (or a number) tries others.
 */
const given = process.env.LEARND_TEST_SEED ?? '20261124';
if (given !== 'random') fc.configureGlobal({ ...fc.readConfigureGlobal(), seed: Number(given) });

/** For properties that are slow to check: the first case that fails is told as it is, with its seed, instead of being made smaller for minutes. */
export const SLOW = { endOnFailure: true } as const;

export { fc };
