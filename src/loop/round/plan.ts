import { LearndError } from '../../base/errors.ts';
import type { Action, ActionOf } from '../../events/actions.ts';
import { epsilon } from '../../learn/privacy/accountant.ts';
import type { Queryable } from '../../store/database.ts';
import { declare, reserve } from '../../store/ledger.ts';
import { freezeDocuments, freezeHoldout, publicSources } from '../../store/round-rows.ts';
import type { RoundRow } from '../../store/rounds.ts';
import { calibrationTraining } from './calibrate.ts';
import { teacherVersion } from './distill.ts';
import type { Outcome, Step } from './machine.ts';
import { documentTraining } from './plan-documents.ts';
import { feedbackTrainings, forgetting } from './plan-feedback.ts';
import type { RoundPorts } from './ports.ts';
import { type Program, programOf } from './program.ts';
import { type Compression, mechanismsOf, type RoundWork, type Training } from './work.ts';

type Candidate = Extract<Program, { kind: 'candidate' }>;

/** How much is measured on held-out users: newest rows first. Bounds the time of `evaluate`, not the privacy. */
export const MEASURED = { documents: 256, labels: 1000 } as const;

/**
 * The first step: reads the program off the actions, and in one transaction freezes the view, makes the privacy plan from public
 * constants and reserves its cost. A refusal leaves no trace but its reason.
 */
export function planStep(ports: RoundPorts): Step {
  return async round => {
    const program = programOf(round.actions as readonly Action[]);
    switch (program.kind) {
      case 'nothing':
        return { to: 'published', work: { notes: ['nothing to train or measure'] } };
      case 'rollback':
        return { to: 'published', commit: tx => rollBack(ports, tx, round) };
      case 'evaluate':
        return {
          to: 'compressed',
          commit: async tx => {
            await freezeHoldout(tx, round.id, ports.settings.tasks, MEASURED);
            return {};
          },
        };
      case 'candidate':
        return { to: 'reserved', commit: tx => freezeAndReserve(ports, tx, round, program) };
    }
  };
}

async function rollBack(ports: RoundPorts, tx: Queryable, round: RoundRow): Promise<Partial<Outcome>> {
  const { version } = await ports.registry.rollbackIn(tx, { reason: round.reason, fence: ports.fence });
  return { work: { notes: [`rolled back to ${version.name}@${version.n}`] } };
}

async function freezeAndReserve(
  ports: RoundPorts,
  tx: Queryable,
  round: RoundRow,
  program: Candidate,
): Promise<{ epsilon: number; work: Record<string, unknown> }> {
  const { settings } = ports;
  const budget = ports.budget();
  const notes: string[] = [];
  const trainings: Training[] = [];
  const view = { feedback: 0, documents: 0 };
  for (const finetune of program.finetunes) {
    if (finetune.data === 'feedback') {
      const planned = await feedbackTrainings(ports, tx, round, finetune, budget.delta);
      view.feedback = planned.rows;
      trainings.push(...planned.trainings);
      notes.push(planned.why);
    } else {
      const publicOnly = finetune.epsilon === 'none';
      const rows = await freezeDocuments(tx, round.id, { perUnit: settings.privacy.examples_per_user, publicOnly });
      if (rows === 0)
        throw publicOnly
          ? new LearndError(
              'forbidden',
              'epsilon: none needs documents of a source declared public, and there is none',
              {
                field: 'epsilon',
                hint: 'Declare the source public in settings, or give a number for epsilon',
              },
            )
          : nothing(
              'there is no document that may be trained on',
              'Send documents, or wait until they have been scored',
            );
      view.documents = rows;
      const { training, why } = await documentTraining(ports, round, finetune, budget.delta);
      trainings.push({ ...training, ...forgetting(finetune) });
      notes.push(why);
      if (publicOnly)
        await declare(tx, {
          round: round.id,
          what: 'training without noise',
          why: `documents of sources declared public: ${(await publicSources(tx, round.id)).join(', ')}`,
        });
    }
  }
  const prune = program.prune && pruningOf(program.prune);
  if (prune && program.prune?.calibration === 'private') {
    const perUnit = settings.privacy.examples_per_user;
    view.documents = await freezeDocuments(tx, round.id, { perUnit, publicOnly: false });
    if (view.documents === 0)
      throw nothing(
        'there is no document that pruning may be calibrated on',
        'Send documents, or prune with calibration: public',
      );
    trainings.push(calibrationTraining(ports, prune, program.prune.epsilon!, budget.delta));
    notes.push('pruning is calibrated on private documents, by one noised release');
  }
  const mechanisms = trainings.flatMap(training => mechanismsOf(training));
  if (mechanisms.length > 0) {
    const { expected_users } = settings.privacy;
    if (budget.delta >= 1 / expected_users)
      notes.push(
        `warning: budget.delta ${budget.delta} is not below 1 / ${expected_users} expected users: with it, the data of one user may be released outright`,
      );
    await reserve(tx, {
      round: round.id,
      mechanisms,
      delta: budget.delta,
      limit: budget.epsilon,
      ...(typeof budget.windowMs === 'number' ? { windowMs: budget.windowMs } : {}),
      compose: epsilon,
      note: `round ${round.id}: ${trainings.map(called).join(', ')}`,
    });
    await declare(tx, {
      round: round.id,
      what: round.decision === null ? 'view' : 'trigger and view',
      why: 'when this round began, and which tasks had rows to train on, depends on private data that no noise covers',
    });
  }
  await freezeHoldout(tx, round.id, settings.tasks, MEASURED);
  const compression: Compression = {
    ...(prune && { prune }),
    ...(program.distill && { distill: await distillation(tx, program.distill) }),
    ...(program.quantize && { quantize: program.quantize.type }),
  };
  const constraints = program.finetunes.flatMap(finetune => finetune.constraints);
  const work: RoundWork = {
    ...{ trainings, compression, view, reserved: mechanisms, notes },
    ...(constraints.length > 0 && { constraints }),
  };
  return { epsilon: mechanisms.length > 0 ? epsilon(mechanisms, budget.delta) : 0, work: { ...work } };
}

const pruningOf = ({ ffn, drop_layers: dropLayers }: ActionOf<'prune'>): NonNullable<Compression['prune']> => ({
  ...(ffn !== undefined && { ffn }),
  ...(dropLayers !== undefined && { dropLayers }),
});

async function distillation(tx: Queryable, { teacher, max_minutes }: ActionOf<'distill'>) {
  return {
    minutes: max_minutes,
    ...(teacher !== undefined && { teacher: (await teacherVersion(tx, teacher)).n }),
  };
}

const called = (training: Training): string => {
  if (training.kind === 'head') return `head ${training.task}`;
  return training.kind === 'feedback' ? `${training.method}, ${training.objective}` : training.kind;
};

const nothing = (message: string, hint: string): LearndError => new LearndError('conflict', message, { hint });
