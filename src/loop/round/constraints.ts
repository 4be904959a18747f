import type { GateLine } from '../../events/signals.ts';
import type { VersionManifest } from '../../learn/model/version.ts';
import { measuredValue } from '../../learn/training/constraints/counts.ts';
import {
  type ConstraintReport,
  type ConstraintSpec,
  type CountedConstraint,
  isPublic,
  reportOf,
} from '../../learn/training/constraints/spec.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import { holdoutRegions } from '../../store/round-rows.ts';
import type { RoundRow } from '../../store/rounds.ts';
import { languageFiles } from './files.ts';
import type { Compute, Measured, RoundPorts } from './ports.ts';
import { baseFile } from './train-feedback.ts';

interface Sides<T> {
  readonly champion: T;
  readonly candidate: T;
}

/**
 * Every declared constraint before and after the round, on the files as they would be served: what needs public text alone by the
 * worker, recall and gaps from the answers to held-out users that the stage `evaluate` has anyway.
 */
export async function constraintReports(
  ports: RoundPorts,
  worker: Compute,
  round: RoundRow,
  constraints: readonly ConstraintSpec[],
  manifests: Sides<VersionManifest>,
  measured: Sides<Measured>,
  call: CallOptions,
): Promise<ConstraintReport[]> {
  const asked = constraints.filter(isPublic);
  const values = async (manifest: VersionManifest): Promise<readonly (number | null)[]> =>
    asked.length === 0
      ? []
      : await worker.call(
          'measure-constraints',
          {
            files: await languageFiles(ports.artifacts, manifest),
            base: await baseFile(ports, manifest),
            ...{ constraints: asked, threads: worker.threads },
          },
          call,
        );
  const before = await values(manifests.champion);
  const after = await values(manifests.candidate);
  const byRegion = constraints.some(constraint => constraint.kind === 'gap' && constraint.groups.by === 'region');
  const regions = byRegion ? await holdoutRegions(ports.db, round.id) : new Map<number, string>();
  const counted = (constraint: CountedConstraint, { items }: Measured): number | undefined =>
    measuredValue(
      constraint,
      items.labels
        .filter(({ task }) => task === constraint.task)
        .map(({ id, truth, predicted }) => {
          const region = regions.get(id);
          return { label: truth, correct: truth === predicted, ...(region !== undefined && { region }) };
        }),
    );
  return constraints.map(constraint => {
    if (!isPublic(constraint))
      return reportOf(constraint, counted(constraint, measured.champion), counted(constraint, measured.candidate));
    const at = asked.indexOf(constraint);
    return reportOf(constraint, before[at] ?? undefined, after[at] ?? undefined);
  });
}

/** As lines of the verdict. A hard constraint fails it when it is not met, or cannot be vouched for; another is told. */
export function constraintLine({ constraint, side, bound, before, after, met, hard, on }: ConstraintReport): GateLine {
  const told = (value: number | null): string => (value === null ? 'not known' : String(Number(value.toPrecision(4))));
  const figures = `${told(before)} before, ${told(after)} after, on ${on}`;
  const reason =
    met === null
      ? `could not be measured (${figures})`
      : `${met ? 'met' : 'not met'}: ${figures}${hard ? '' : '; not hard'}`;
  return {
    expression: `${constraint} ${side} ${bound}`,
    result: met === true ? 'pass' : hard ? 'fail' : 'does not apply',
    values: { before, after },
    reason,
  };
}
