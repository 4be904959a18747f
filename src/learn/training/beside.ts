import type { EngineModel } from '../model/engine/model.ts';
import type { Gradients } from '../model/engine/sinks.ts';
import type { Example, PassOptions, Trainable } from '../model/engine/units.ts';
import type { DpPlan } from '../privacy/index.ts';
import type { Item } from './objectives/objective.ts';
import type { Parameters } from './optimizer.ts';

/** What a term may look at: the weights as they are, and how the training reaches them. */
export interface BesidePass {
  readonly model: EngineModel;
  readonly trainable: Trainable;
  readonly parameters: Parameters;
  readonly options: Omit<PassOptions, 'tokenWeight' | 'cache'>;
  readonly plan: DpPlan | undefined;
}

/** What the step itself knows of the units it drew, for terms that are charged for looking at them. */
export interface Drawn {
  readonly step: number;
  readonly units: readonly (readonly Example[])[];
  /** For a label choice: the items of each unit and whether they were right at the weights before the step. */
  readonly outcomes: readonly (readonly { readonly item: Item; readonly correct: boolean }[])[];
}

/**
 * Terms of a training beside the gradient of its own data: public replay, KL to the base, constraints. They see public data, the
 * released (noised) gradient and the weights, so they cost no privacy; one that looks at the drawn units does so through the plan's
 * own noise (`DpPlan.countNoise`).
 */
export interface Beside {
  /** Settings, for the fingerprint of a checkpoint. */
  readonly name: string;
  /** Once, with the starting weights, before anything is restored. */
  begin(pass: BesidePass): Promise<void>;
  /** Factor on an item's loss and, below 1, on a unit's clipped gradient (which cannot raise what it contributes). */
  readonly itemFactor?: (item: Item) => number;
  readonly unitFactor?: (outcomes: Drawn['outcomes'][number]) => number;
  /** Adds to the gradients a step hands the optimizer, in place. */
  step(gradients: Gradients, pass: BesidePass, drawn: Drawn): Promise<void>;
  /** After the last step, on the weights that are returned: what public data still allows to put right. */
  end(pass: BesidePass): Promise<void>;
  /** What a checkpoint must hold for the steps after it to be the same release. */
  state(): readonly number[];
  restore(state: readonly number[]): void;
  dispose(): void;
}
