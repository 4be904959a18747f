import type { Example } from '../../model/engine/units.ts';
import {
  type ConstraintSpec,
  type ItemFacts,
  likeliestOf,
  probeExample,
  Terms,
} from '../../training/constraints/index.ts';
import type { Item } from '../../training/objectives/index.ts';
import type { Anchor } from '../../training/public-terms.ts';
import type { Against } from '../types.ts';
import type { Loaded } from './loaded.ts';
import { baseAnchors, publicSequences } from './public-anchors.ts';

/** What the base says on public text, where something is held against it; asked before the model itself is loaded. */
export async function anchorsFor({ base, kl, constraints }: Against, threads: number): Promise<Anchor[]> {
  const anchored = kl > 0 || constraints.some(({ kind }) => kind === 'kl_to_base');
  return anchored ? await baseAnchors(base, threads) : [];
}

/** The terms beside a training's own data. The caller disposes them. */
export function termsOf(
  { replay, kl, constraints, publicTexts }: Against,
  { checkpoint }: Loaded,
  anchors: readonly Anchor[],
  facts: ReadonlyMap<Item, ItemFacts> = new Map(),
): Terms {
  const probes = new Map<ConstraintSpec, readonly Example[]>();
  for (const constraint of constraints)
    if (constraint.kind === 'forbidden')
      probes.set(
        constraint,
        constraint.probes.map(probe => probeExample(checkpoint, probe, checkpoint.config.contextLength)),
      );
  return new Terms({
    ...{ constraints, anchors, probes, facts },
    search: (pass, pattern) => likeliestOf(pass, checkpoint, pattern),
    ...(replay > 0 && { replay: { share: replay, sequences: publicSequences(checkpoint.tokenizer, publicTexts) } }),
    ...(kl > 0 && { kl: { weight: kl } }),
  });
}
