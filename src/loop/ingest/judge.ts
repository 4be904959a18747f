import type { Queryable } from '../../store/database.ts';
import { documentsBefore, publicContents } from '../../store/documents.ts';
import { saidBefore } from '../../store/feedback.ts';
import { UnitMemory } from '../curate/duplicates.ts';
import { sketchFrom } from '../curate/sketch.ts';
import { classOf, DOCUMENT, type Draft } from './draft.ts';
import { ownOutputTest } from './own-outputs.ts';

/** Why a row may be stored but not trained on, where that depends on what is stored already. */

export interface Drafted {
  /** The event's id. */
  readonly id: number;
  readonly draft: Draft;
}

/** The unit that all public documents share when duplicates are looked for: public text is nobody's. */
const PUBLIC = 'public';
const NONE = new Uint32Array(0);

/** What the units of these drafts said before, as far as it is compared. */
async function memoryOf(tx: Queryable, drafts: readonly Drafted[]): Promise<UnitMemory> {
  const memory = new UnitMemory();
  const units = (kind: Draft['kind']) => [
    ...new Set(
      drafts.flatMap(({ draft }) => (draft.kind === kind && draft.user !== undefined ? [`u:${draft.user}`] : [])),
    ),
  ];
  for (const row of await saidBefore(tx, units('feedback')))
    memory.add(row.unit, {
      class: classOf(row),
      hash: row.content_hash.toString('hex'),
      sketch: sketchFrom(row.sketch),
    });
  for (const row of await documentsBefore(tx, units('document')))
    memory.add(row.unit, { class: DOCUMENT, hash: row.content_hash.toString('hex'), sketch: sketchFrom(row.sketch) });
  const open = drafts.flatMap(({ draft }) =>
    draft.kind === 'document' && draft.row.public ? [Buffer.from(draft.print.hash, 'hex')] : [],
  );
  for (const hash of await publicContents(tx, open)) memory.add(PUBLIC, { class: DOCUMENT, hash, sketch: NONE });
  return memory;
}

/**
 * The verdict on each draft, in order: what its event says already, else its own output, else a repetition.
 * Two transactions at once may each miss the other's row: a repetition let through is an example too many, no fault.
 * @param owner the database, whatever transaction `tx` is
 */
export async function judge(
  tx: Queryable,
  owner: object,
  drafts: readonly Drafted[],
): Promise<(Drafted & { excluded: string | undefined })[]> {
  const memory = await memoryOf(tx, drafts);
  const originals = drafts.flatMap(({ draft }) => (draft.kind === 'document' ? [draft.original] : []));
  const isOwnOutput = await ownOutputTest(owner, tx, originals);
  return drafts.map(({ id, draft }) => {
    const { print } = draft;
    let excluded = draft.row.excluded;
    if (draft.kind === 'document' && isOwnOutput(draft.original, print.sketch)) excluded ??= 'own_output';
    const units = draft.user === undefined ? [] : [`u:${draft.user}`];
    if (draft.kind === 'document' && draft.row.public) units.push(PUBLIC);
    for (const unit of units) excluded ??= memory.judge(unit, print);
    // Of public documents only equal ones are one: to compare all of them by similarity would need an index of its own.
    if (excluded === undefined)
      for (const unit of units) memory.add(unit, unit === PUBLIC ? { ...print, sketch: NONE } : print);
    return { id, draft, excluded };
  });
}
