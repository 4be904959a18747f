import { join } from 'node:path';
import { asLearndError, LearndError } from '../../base/errors.ts';
import type { Blob, VersionManifest } from '../../learn/model/version.ts';
import { epsilon } from '../../learn/privacy/accountant.ts';
import { type ConstraintSpec, isCounted, isPublic } from '../../learn/training/constraints/spec.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import type { DocumentsInput } from '../../learn/worker/types.ts';
import { getFact, setFact } from '../../store/facts.ts';
import { settle } from '../../store/ledger.ts';
import { appendEvent } from '../../store/outbox.ts';
import { viewDocuments, viewLabels } from '../../store/round-rows.ts';
import { noteProgress, noteWork, type RoundRow } from '../../store/rounds.ts';
import { getVersion, listVersions } from '../../store/versions.ts';
import { calibrate } from './calibrate.ts';
import { addEvidence, canariesOf, labelRecords, takingPart, textRecords } from './canaries.ts';
import type { CanaryRecord } from './canary-record.ts';
import { checkHead, checkText } from './check.ts';
import { checkpointFolder, freshFolder, keep, languageFiles, removeFolder } from './files.ts';
import type { Step } from './machine.ts';
import type { RoundPorts } from './ports.ts';
import { againstOf, feedbackRows, trainFeedback } from './train-feedback.ts';
import { adapterFits, type Context, type Done, noiseInput, stepMethod, withFiles } from './train-parts.ts';
import {
  type HeadTraining,
  mechanismsOf,
  type Noise,
  noisesOf,
  type TextTraining,
  type Trained,
  type Training,
  workOf,
} from './work.ts';

/** Pieces of one unit's documents, and their length in tokens: what a unit costs in time. */
const SEQUENCE = { private: 96, public: 128 } as const;
const PIECES = { private: 4, public: Number.MAX_SAFE_INTEGER } as const;
/** A worker that is this much past its time limit hangs: trainings end by themselves after the step in which it passed. */
const GRACE_MS = 10 * 60_000;

/**
 * Trains each part in a fresh worker and puts its files into the store; settles what was really released. Nothing of an attempt
 * is seen by anyone before it ends, and a retry replays the sealed seeds, so the reservation covers it
 * (docs/decisions: a retried training is the same release).
 */
export function trainStep(ports: RoundPorts): Step {
  return async (round, signal) => {
    const { trainings = [] } = workOf(round);
    const parent = await getVersion(ports.db, round.parent!);
    if (trainings.length === 0) return { to: 'trained', work: { manifest: parent.manifest } };
    await refuseErased(ports, round, trainings);
    const begunBefore = workOf(round).begun === true;
    // From here on a noised step may have happened.
    if (trainings.some(t => noisesOf(t).length > 0)) await noteWork(ports.db, round, ports.fence, { begun: true });
    const folder = await freshFolder(ports.settings.data, round.id);
    const checkpoints = await checkpointFolder(ports.settings.data, round.id);
    const worker = ports.openWorker();
    const trained: Trained[] = [];
    const notes: string[] = [...(workOf(round).notes ?? [])];
    const records: CanaryRecord[] = [];
    let nothing: string | undefined;
    let manifest = parent.manifest;
    try {
      for (const [i, training] of trainings.entries()) {
        const context: Context = {
          ports,
          round,
          parent,
          worker,
          folder,
          checkpoint: join(checkpoints, `${i}.safetensors`),
          call: watched(ports, round, training, signal),
        };
        const done = await trainOne(context, manifest, training, workOf(round).constraints ?? []);
        manifest = done.manifest;
        trained.push(done.trained);
        notes.push(...(done.notes ?? []));
        records.push(...(done.canaries ?? []));
        nothing ??= done.nothing;
      }
    } catch (thrown) {
      // What a worker refuses before its first step has released nothing, unless something was released before it.
      if (!begunBefore && trained.length === 0 && asLearndError(thrown).data?.released === false)
        await noteWork(ports.db, round, ports.fence, { begun: null });
      throw thrown;
    } finally {
      await worker.close();
      await removeFolder(ports.settings.data, round.id);
    }
    const released = trainings.flatMap((training, i) => mechanismsOf(training, trained[i]!.steps));
    const { delta } = trainings.flatMap(noisesOf)[0] ?? ports.budget();
    return {
      // Nothing stood out of the noise, and nothing else was changed: what was released counts, and there is no candidate.
      ...(nothing !== undefined && manifest === parent.manifest
        ? { to: 'rejected' as const, error: nothing, verdict: nothingLearned(nothing) }
        : { to: 'trained' as const }),
      // The seeds go: whoever has one can take the noise off again.
      work: {
        ...{ manifest, trained, begun: null, trainings: trainings.map(withoutSeed) },
        notes: nothing === undefined ? notes : [...notes, nothing],
      },
      epsilon: epsilon(released, delta),
      commit: async tx => {
        if (released.length > 0) await settle(tx, { round: round.id, mechanisms: released, delta, compose: epsilon });
        await addEvidence(tx, { round: round.id, epsilon: epsilon(released, delta), records });
        return {};
      },
    };
  };
}

function trainOne(
  context: Context,
  manifest: VersionManifest,
  training: Training,
  constraints: readonly ConstraintSpec[],
): Promise<Done> {
  switch (training.kind) {
    case 'head':
      return trainHead(context, manifest, training, constraints);
    case 'feedback':
      return trainFeedback(context, manifest, training, constraints);
    case 'calibration':
      return calibrate(context, manifest, training);
    default:
      return trainText(context, manifest, training, constraints);
  }
}

const nothingLearned = (reason: string) => ({
  admitted: false,
  lines: [{ expression: 'something stands out of the noise', result: 'fail', reason, values: {} }],
});

export const withoutSeed = (training: Training): Training => {
  const bare = (noise: Noise): Noise => {
    const { seed: _, ...rest } = noise;
    return rest;
  };
  return {
    ...training,
    ...(training.noise && { noise: bare(training.noise) }),
    ...('histogram' in training && training.histogram && { histogram: bare(training.histogram) }),
  } as Training;
};

/** Everything erased since the view was frozen is gone from it; with nothing left there is nothing to train on. */
async function refuseErased(ports: RoundPorts, round: RoundRow, trainings: readonly Training[]): Promise<void> {
  for (const training of trainings) {
    const rows = await rowsOf(ports, round, training);
    if (rows.length === 0)
      throw new LearndError('conflict', 'every row of the training view has been erased since it was frozen', {
        retriable: false,
      });
  }
}

async function rowsOf({ db }: RoundPorts, { id }: RoundRow, training: Training): Promise<readonly unknown[]> {
  if (training.kind === 'head') return await viewLabels(db, id, training.task);
  if (training.kind === 'feedback') return await feedbackRows(db, id, training);
  return (await viewDocuments(db, id)).filter(row => noisesOf(training).length > 0 || row.public);
}

/** Progress into the round's row, at most every two seconds, and to subscribers at most every fifteen. */
function watched(ports: RoundPorts, round: RoundRow, training: Training, signal: AbortSignal): CallOptions {
  let noted = 0;
  let told = Date.now();
  return {
    signal,
    timeoutMs: training.minutes * 60_000 + GRACE_MS,
    onProgress: progress => {
      const now = Date.now();
      if (now - noted < 2_000 && progress.done < progress.total) return;
      noted = now;
      const tell = now - told >= 15_000;
      if (tell) told = now;
      const said = { training: training.kind, ...progress };
      const write = async (): Promise<void> => {
        await noteProgress(ports.db, round.id, said);
        if (tell)
          await ports.db.tx(tx =>
            appendEvent(tx, 'learnd.round.progressed', { round: round.id, state: round.state, progress: said }),
          );
      };
      // Progress is for watching: a database that is away for a moment must not end the training.
      write().catch(error => ports.log.debug('progress was not noted', { round: round.id, error }));
    },
  };
}

async function trainHead(
  context: Context,
  manifest: VersionManifest,
  training: HeadTraining,
  constraints: readonly ConstraintSpec[],
): Promise<Done> {
  const { ports, round, parent, worker, folder, call } = context;
  const canaries = canariesOf(ports, training, training.labels);
  const rows = await viewLabels(ports.db, round.id, training.task);
  const examples = [
    ...rows.map(({ region, ...row }) => ({ ...row, ...(region !== null && { region }) })),
    ...takingPart(canaries),
  ];
  const counted = constraints.filter(isCounted).filter(({ task }) => task === training.task);
  const { blob: features, layer } = await featureModel(context, manifest);
  // Released: going on from it is post-processing, whatever was paid for it.
  const old = manifest.heads[training.task];
  const fits = training.goOn === true && old?.base === manifest.base.sha256 && old.layer === layer;
  const before = fits ? old : undefined;
  const result = await worker.call(
    'train-head',
    {
      features: await ports.artifacts.path(features),
      base: manifest.base.sha256,
      layer,
      task: training.task,
      labels: training.labels,
      examples,
      ...(before && { before: { file: await ports.artifacts.path(before), labels: before.labels } }),
      ...(counted.length > 0 && { constraints: counted }),
      ...(training.augment !== undefined && { augment: training.augment }),
      noise: noiseInput(training.noise),
      maxSeconds: training.minutes * 60,
      out: join(folder, 'head.safetensors'),
    },
    call,
  );
  const blob = await keep(ports.artifacts, result.file, 'safetensors');
  const head = {
    ...blob,
    features,
    base: manifest.base.sha256,
    layer,
    pooling: 'mean' as const,
    labels: training.labels,
  };
  const next: VersionManifest = { ...manifest, heads: { ...manifest.heads, [training.task]: head } };
  await checkHead(ports, worker, next, training, result.check, call);
  return {
    manifest: next,
    trained: { kind: 'head', task: training.task, steps: result.steps, seconds: result.seconds },
    ...(before && { notes: [goesOn(training, `${parent.name}@${parent.n}`, before.labels)] }),
    canaries: await labelRecords(context, 'head', canaries, { name: training.task, labels: training.labels }, next),
  };
}

function goesOn({ task, labels }: HeadTraining, version: string, known: readonly string[]): string {
  const kept = labels.filter(label => known.includes(label)).length;
  return `the head of ${task} goes on from that of ${version}: ${kept} of ${labels.length} labels start from it`;
}

/** Cut once for a base: heads of every later version share the file. */
async function featureModel(
  { ports, worker, folder, call }: Context,
  manifest: VersionManifest,
): Promise<{ blob: Blob; layer: number }> {
  const wanted = ports.settings.train.feature_layer;
  const key = `features:${manifest.base.sha256}:${wanted}`;
  const known = await getFact<{ blob: Blob; layer: number }>(ports.db, key);
  if (known) return known;
  const base = (await listVersions(ports.db)).findLast(
    version => version.manifest.model.sha256 === manifest.base.sha256,
  );
  if (!base)
    throw new LearndError(
      'corrupt',
      `no version holds the base ${manifest.base.name} that the feature model is cut from`,
    );
  const written = await worker.call(
    'feature-model',
    { model: await ports.artifacts.path(base.manifest.model), layers: wanted, out: join(folder, 'features.gguf') },
    call,
  );
  const made = { blob: await keep(ports.artifacts, written, 'gguf'), layer: written.layers };
  await setFact(ports.db, key, made);
  return made;
}

async function trainText(
  context: Context,
  before: VersionManifest,
  training: TextTraining,
  constraints: readonly ConstraintSpec[],
): Promise<Done> {
  const { ports, round, worker, folder, checkpoint, call } = context;
  const view = await viewDocuments(ports.db, round.id);
  const isPrivate = noisesOf(training).length > 0;
  // Another action of the round may have put private documents into the view: without noise they must not be seen.
  const documents = isPrivate ? view : view.filter(row => row.public);
  const way = isPrivate ? 'private' : 'public';
  const { kind } = training;
  const manifest = await adapterFits(context, before, kind, isPrivate);
  const canaries = canariesOf(ports, training);
  const held = constraints.filter(isPublic);
  const asked = held.length > 0 || (training.replay ?? 0) + (training.kl ?? 0) > 0 || training.ema !== undefined;
  const input: DocumentsInput = {
    files: await languageFiles(ports.artifacts, manifest),
    documents: [...documents, ...takingPart(canaries)].map(({ unit, text }) => ({ unit, text })),
    ...(isPrivate
      ? training.histogram && { histogram: noiseInput(training.histogram) }
      : kind === 'bias' && { histogram: 'none' }),
    ...(kind !== 'bias' && {
      steps: { method: stepMethod(kind, isPrivate), noise: training.noise ? noiseInput(training.noise) : 'none' },
    }),
    ...(training.gaps && { gaps: training.gaps }),
    ...(training.augment !== undefined && { augment: training.augment }),
    ...(asked && { against: await againstOf(context, manifest, training, held) }),
    sequence: SEQUENCE[way],
    perUnit: PIECES[way],
    maxSeconds: training.minutes * 60,
    threads: worker.threads,
    folder,
    checkpoint: { path: checkpoint },
  };
  const result = await worker.call('train-documents', input, call);
  const { bias, nothing, notes, steps, seconds } = result;
  const trained: Trained = { kind, steps, seconds, ...(bias && { biased: bias.tokens }) };
  if (nothing !== undefined) return { manifest: before, trained, notes, nothing };
  const next = await withFiles(context, manifest, result);
  await checkText(ports, worker, next, result.check, call);
  return { manifest: next, trained, notes, canaries: await textRecords(context, kind, canaries, before, next) };
}
