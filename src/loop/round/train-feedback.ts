import { LearndError } from '../../base/errors.ts';
import type { VersionManifest } from '../../learn/model/version.ts';
import { type ConstraintSpec, isCounted } from '../../learn/training/constraints/spec.ts';
import type { FeedbackObjective, FeedbackRow } from '../../learn/training/objectives/feedback.ts';
import type { Against } from '../../learn/worker/types.ts';
import type { Queryable } from '../../store/database.ts';
import { type SaidRow, viewSaid } from '../../store/feedback-view.ts';
import { publicTexts, viewLabels } from '../../store/round-rows.ts';
import { listVersions } from '../../store/versions.ts';
import { canariesOf, saidByThose, saidRecords } from './canaries.ts';
import { checkText } from './check.ts';
import { languageFiles } from './files.ts';
import { SAID } from './plan-feedback.ts';
import type { RoundPorts } from './ports.ts';
import { adapterFits, type Context, type Done, noiseInput, stepMethod, withFiles } from './train-parts.ts';
import type { FeedbackTraining } from './work.ts';

/** Longest prompt and answer together, tokens: what a row costs in time. */
const SEQUENCE = 192;
/** Public texts that may be replayed. */
const PUBLIC_TEXTS = 512;

/** Trains the language model on what people said; the model's own answers are looked at as what they rated, never as text to copy. */
export async function trainFeedback(
  context: Context,
  before: VersionManifest,
  training: FeedbackTraining,
  constraints: readonly ConstraintSpec[],
): Promise<Done> {
  const { ports, round, worker, folder, checkpoint, call } = context;
  const manifest = await adapterFits(context, before, training.method, true);
  const canaries = canariesOf(ports, training, training.labels);
  const result = await worker.call(
    'train-feedback',
    {
      files: await languageFiles(ports.artifacts, manifest),
      rows: [...(await feedbackRows(ports.db, round.id, training)), ...saidByThose(canaries, training.objective)],
      objective: objectiveOf(training),
      method: stepMethod(training.method, true),
      noise: noiseInput(training.noise),
      ...(training.augment !== undefined && { augment: training.augment }),
      against: await againstOf(context, manifest, training, constraintsOf(training, constraints)),
      ...{ sequence: SEQUENCE, maxSeconds: training.minutes * 60, threads: worker.threads, folder },
      checkpoint: { path: checkpoint },
    },
    call,
  );
  const next = classified(await withFiles(context, manifest, result), training);
  await checkText(ports, worker, next, result.check, call);
  const { steps, seconds } = result;
  const { task, objective } = training;
  return {
    manifest: next,
    trained: { kind: 'feedback', objective, steps, seconds, ...(task !== undefined && { task }) },
    notes: result.notes,
    canaries: await saidRecords(context, canaries, training, before, next),
  };
}

/** Constraints and what is done against forgetting, with the public text for both. */
export async function againstOf(
  { ports }: Pick<Context, 'ports'>,
  manifest: VersionManifest,
  { replay = 0, kl = 0, ema }: Pick<FeedbackTraining, 'replay' | 'kl' | 'ema'>,
  constraints: readonly ConstraintSpec[],
): Promise<Against> {
  return {
    base: await baseFile(ports, manifest),
    ...{ constraints, replay, kl, ...(ema !== undefined && { ema }) },
    publicTexts: await publicTexts(ports.db, PUBLIC_TEXTS),
  };
}

/** Label scoring has been trained: a head for the task would answer in its place. */
function classified(manifest: VersionManifest, { task }: FeedbackTraining): VersionManifest {
  if (task === undefined) return manifest;
  const { [task]: _, ...heads } = manifest.heads;
  return { ...manifest, heads };
}

/** Counts of right answers exist in a label choice only; the others of another kind are left to the gate. */
const constraintsOf = (
  { objective, task }: FeedbackTraining,
  constraints: readonly ConstraintSpec[],
): readonly ConstraintSpec[] =>
  constraints.filter(constraint => !isCounted(constraint) || (objective === 'classify' && constraint.task === task));

function objectiveOf({ objective, labels }: FeedbackTraining): FeedbackObjective {
  if (objective !== 'classify') return { kind: objective };
  if (labels === undefined) throw new LearndError('internal', 'a label choice without its labels');
  return { kind: 'classify', labels };
}

/** Rows of the frozen view as the training takes them. */
export async function feedbackRows(
  db: Queryable,
  round: number,
  { objective, task }: FeedbackTraining,
): Promise<FeedbackRow[]> {
  if (objective === 'classify')
    return (await viewLabels(db, round, task!)).map(({ region, ...row }) => ({
      ...{ kind: 'label', ...row },
      ...(region !== null && { region }),
    }));
  return (await viewSaid(db, round, SAID[objective])).map(saidRow);
}

function saidRow({ unit, kind, messages, answer, whole, liked, ideal, chosen, rejected }: SaidRow): FeedbackRow {
  switch (kind) {
    case 'correction':
      return { unit, kind, messages, ideal: ideal! };
    case 'preference':
      return { unit, kind, messages, chosen: chosen!, rejected: rejected! };
    case 'rating':
      return { unit, kind, messages, answer: answer!, whole, liked: liked! };
  }
}

/** The weights that the deployment started from. */
export async function baseFile({ db, artifacts }: RoundPorts, { base }: VersionManifest): Promise<string> {
  const first = (await listVersions(db)).findLast(({ manifest }) => manifest.model.sha256 === base.sha256);
  if (first === undefined) throw new LearndError('corrupt', `no version holds the base ${base.name}`);
  return await artifacts.path(first.manifest.model);
}
