import { LearndError } from '../../base/errors.ts';
import { noiseMultiplier } from '../../learn/privacy/accountant.ts';
import { isCounted } from '../../learn/training/constraints/spec.ts';
import type { Queryable } from '../../store/database.ts';
import { eligible, freezeSaid, type Said } from '../../store/feedback-view.ts';
import { freezeLabels, tasksInView } from '../../store/round-rows.ts';
import type { RoundRow } from '../../store/rounds.ts';
import { seeded } from './plan-documents.ts';
import type { RoundPorts } from './ports.ts';
import type { Finetune } from './program.ts';
import { RECIPES, sampleRate, VARIANTS } from './recipes.ts';
import type { FeedbackTraining, HeadTraining, Noise } from './work.ts';

type Objective = FeedbackTraining['objective'];

/** What an objective that is not about labels learns from. */
export const SAID: Readonly<Record<Exclude<Objective, 'classify'>, readonly Said[]>> = {
  instruct: ['correction'],
  preference: ['preference', 'rating'],
};

/** Public text in a step: 5% is usual for a weak shift (2403.08763). */
const REPLAY = 0.05;

/** Share of a step's privacy for counts of right answers, where a constraint asks for them: gradients get 5% more noise. */
const COUNT_SHARE = 0.1;

interface Planned {
  readonly trainings: readonly (HeadTraining | FeedbackTraining)[];
  /** Rows in the view. */
  readonly rows: number;
  readonly why: string;
}

/**
 * A training on feedback: freezes its view, and gives it the smallest noise that keeps all of its parts together at the action's
 * epsilon. Noise, rates and steps come from public constants alone; which objective `auto` takes depends on the view, and is declared.
 */
export async function feedbackTrainings(
  ports: RoundPorts,
  tx: Queryable,
  round: RoundRow,
  finetune: Finetune,
  delta: number,
): Promise<Planned> {
  const { objective, why } = await objectiveOf(ports, tx, finetune);
  const perUnit = ports.settings.privacy.examples_per_user;
  if (objective === 'classify') {
    const { tasks: declared } = ports.settings;
    const rows = await freezeLabels(tx, round.id, declared, perUnit);
    const held = await tasksInView(tx, round.id);
    const tasks = declared.filter(task => held.has(task.name));
    if (tasks.length === 0) throw nothing('there is no labelled feedback that may be trained on', LABELS);
    const { method } = finetune;
    const noise = noiseOf(ports, finetune, method === 'auto' ? 'head' : method, delta, tasks.length);
    const minutes = finetune.minutes / tasks.length;
    const counted = (task: string): Noise =>
      finetune.constraints.some(constraint => isCounted(constraint) && constraint.task === task)
        ? { ...noise, countShare: COUNT_SHARE }
        : noise;
    const trainings = tasks.map(({ name: task, labels }): HeadTraining | FeedbackTraining =>
      method === 'auto' || method === 'head'
        ? {
            ...{ kind: 'head', task, labels, minutes, noise: seeded(counted(task)) },
            ...(finetune.augment === true && { augment: VARIANTS.head }),
            ...(finetune.goOn === true && { goOn: true }),
          }
        : {
            ...base(finetune, method as FeedbackTraining['method'], objective),
            task,
            labels,
            minutes,
            noise: seeded(counted(task)),
          },
    );
    const how = method === 'auto' ? 'a head on frozen features: few numbers under noise' : `method ${method}`;
    return { trainings, rows, why: `${why}; ${how}${variantsSaid(finetune, objective, method)}` };
  }
  const rows = await freezeSaid(tx, round.id, SAID[objective], perUnit);
  if (rows === 0) throw nothing(`there is no ${SAID[objective].join(' or ')} that may be trained on`, SAY);
  const method = finetune.method === 'auto' ? 'norms' : (finetune.method as FeedbackTraining['method']);
  const noise = seeded(noiseOf(ports, finetune, method, delta, 1));
  const how =
    finetune.method === 'auto'
      ? 'norm scales: the fewest numbers of the language model under noise'
      : `method ${method}`;
  return {
    trainings: [{ ...base(finetune, method, objective), minutes: finetune.minutes, noise }],
    rows,
    why: `${why}; ${how}${variantsSaid(finetune, objective, method)}`,
  };
}

/** The number asked for: how many the texts offered is theirs to know. */
function variantsSaid({ augment }: Finetune, objective: Objective, method: Finetune['method']): string {
  if (augment !== true) return '';
  if (objective === 'preference')
    return '; without variants: a preference or rating judges the answer to that very prompt';
  const head = objective === 'classify' && (method === 'auto' || method === 'head');
  return `; up to ${head ? VARIANTS.head : VARIANTS.text} variants of each example count with it as one`;
}

/** What the action says against forgetting. */
export const forgetting = ({ replay, kl, ema }: Finetune): Pick<FeedbackTraining, 'replay' | 'kl' | 'ema'> => ({
  ...(replay !== undefined && { replay }),
  ...(kl !== undefined && { kl }),
  ...(ema !== undefined && { ema }),
});

const base = (finetune: Finetune, method: FeedbackTraining['method'], objective: Objective) =>
  ({
    kind: 'feedback',
    method,
    objective,
    replay: REPLAY,
    ...(finetune.augment === true && objective !== 'preference' && { augment: VARIANTS.text }),
    ...forgetting(finetune),
  }) as const;

const LABELS = 'Send labels for a task declared in settings';
const SAY = 'Send corrections, preferences, or ratings of answers that were served';

const nothing = (message: string, hint: string): LearndError => new LearndError('conflict', message, { hint });

/** What the rule asks for, else what most rows are; labels before corrections before preferences and ratings. */
async function objectiveOf(
  ports: RoundPorts,
  tx: Queryable,
  { objective, method }: Finetune,
): Promise<{ objective: Objective; why: string }> {
  if (objective !== 'auto')
    return { objective: objective as Objective, why: `objective ${objective}, as the rule asks` };
  if (method === 'head') return { objective: 'classify', why: 'objective classify: a head does nothing else' };
  const { label, correction, preference, rating } = await eligible(tx, ports.settings.tasks);
  const rows = { classify: label, instruct: correction, preference: preference + rating };
  const most = (Object.keys(rows) as Objective[]).reduce((best, next) => (rows[next] > rows[best] ? next : best));
  if (rows[most] === 0)
    throw nothing(
      'there is no feedback that may be trained on: no labelled feedback of a declared task, no correction, preference or rating',
      `${LABELS}, or ${SAY.charAt(0).toLowerCase()}${SAY.slice(1)}`,
    );
  return {
    objective: most,
    why: `objective ${most}: of what may be trained on, ${label} are labels, ${correction} corrections, ${preference} preferences and ${rating} ratings`,
  };
}

/** The smallest noise that keeps `parts` trainings of one action together at its epsilon. */
function noiseOf(
  ports: RoundPorts,
  finetune: Finetune,
  method: Finetune['method'],
  delta: number,
  parts: number,
): Noise {
  const recipe = RECIPES[method as keyof typeof RECIPES];
  const expectedUnits = ports.settings.privacy.expected_users;
  const rate = sampleRate(recipe, expectedUnits);
  const { steps, clip } = recipe;
  const epsilon = finetune.epsilon as number;
  return {
    noiseMultiplier: noiseMultiplier({ epsilon, delta, sampleRate: rate, steps: steps * parts }),
    ...{ sampleRate: rate, steps, clip, expectedUnits, delta },
  };
}
