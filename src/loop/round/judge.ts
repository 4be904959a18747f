import { LearndError } from '../../base/errors.ts';
import type { Seed } from '../../events/holdout.ts';
import type { GateFigures, GateVerdict } from '../../events/signals.ts';
import type { Card, Subject, VersionManifest } from '../../learn/model/version.ts';
import type { ConstraintReport } from '../../learn/training/constraints/spec.ts';
import type { CallOptions } from '../../learn/worker/process.ts';
import { declare } from '../../store/ledger.ts';
import { noteProgress } from '../../store/rounds.ts';
import { getVersion, setEvaluation } from '../../store/versions.ts';
import { auditLine, type CanaryAudit, canaryAudit } from './canaries.ts';
import { constraintLine, constraintReports } from './constraints.ts';
import { headFiles, languageFiles } from './files.ts';
import type { Step } from './machine.ts';
import type { Measured, RoundPorts } from './ports.ts';
import { type Figures, workOf } from './work.ts';

/** What a verdict says in the round's row: every line of the gate, and both cards. */
export interface Verdict extends GateVerdict {
  readonly champion: Card;
  readonly candidate: Card;
  /** What the canary users of this and all earlier rounds show. */
  readonly audit?: CanaryAudit;
  /** Every declared constraint, before and after, and whether it was met. */
  readonly constraints?: readonly ConstraintReport[];
}

async function subjectOf(ports: RoundPorts, manifest: VersionManifest): Promise<Subject> {
  return {
    files: {
      ...(await languageFiles(ports.artifacts, manifest)),
      heads: await headFiles(ports.artifacts, manifest),
    },
    parameters: manifest.model.parameters,
    bytes: manifest.model.bytes + (manifest.adapter?.bytes ?? 0),
  };
}

const seedOf = ({ card, items }: Measured): Seed => ({
  errors: items.labels.map(({ truth, predicted }) => (truth === predicted ? 0 : 1)),
  f1: card.f1,
  documents: items.documents.map(({ nll, tokens }) => ({ nll, tokens })),
});

const unmeasured = (evaluation: unknown): boolean => {
  const card = evaluation as Partial<Card> | null;
  return (card?.perplexity ?? card?.f1 ?? card?.tokens_per_second ?? null) === null;
};

/** Champion and candidate on held-out users. A round that only measures ends here, with the champion's new card. */
export function evaluateStep(ports: RoundPorts): Step {
  return async (round, signal) => {
    const { manifest, constraints = [], compressed } = workOf(round);
    const parent = await getVersion(ports.db, round.parent!);
    const worker = ports.openWorker();
    try {
      const call: CallOptions = {
        signal,
        onProgress: progress =>
          void noteProgress(ports.db, round.id, progress).catch(error =>
            ports.log.debug('progress was not noted', { round: round.id, error }),
          ),
      };
      const { champion, candidate } = await ports.evaluate({
        db: ports.db,
        round: round.id,
        tasks: ports.settings.tasks,
        worker,
        champion: await subjectOf(ports, parent.manifest),
        candidate: manifest && (await subjectOf(ports, manifest)),
        call,
      });
      if (!candidate)
        return {
          to: 'evaluated',
          finished: true,
          commit: async tx => {
            await setEvaluation(tx, parent.n, champion.card);
            return {};
          },
        };
      const constrained = await constraintReports(
        ports,
        worker,
        round,
        constraints,
        { champion: parent.manifest, candidate: manifest! },
        { champion, candidate },
        call,
      );
      const card: Card = { ...candidate.card, ...(compressed && { compressed }) };
      const measured: Figures = { champion: champion.card, candidate: card, seed: seedOf(candidate) };
      return {
        to: 'evaluated',
        work: { measured, ...(constrained.length > 0 && { constrained }) },
        commit: async tx => {
          // The base of a deployment comes without figures: there was nothing to measure it on.
          if (unmeasured(parent.evaluation)) await setEvaluation(tx, parent.n, champion.card);
          return {};
        },
      };
    } finally {
      await worker.close();
    }
  };
}

/** The gate of the policy in force. A rejected candidate is kept as a version that cannot be promoted, with its figures. */
export function gateStep(ports: RoundPorts): Step {
  return async round => {
    const { measured, manifest, constrained = [] } = workOf(round);
    if (!measured || !manifest) throw new LearndError('internal', 'the round has nothing to judge');
    const { champion, candidate } = measured;
    const figures = (card: Card): GateFigures => card;
    const judged = ports.gate(
      { ...figures(champion), version: round.parent },
      { ...figures(candidate), epsilon: round.epsilon },
    );
    const audit = await canaryAudit(ports.db, ports.budget().delta);
    const lines = [...judged.lines, ...constrained.map(constraintLine), ...(audit ? [auditLine(audit)] : [])];
    const verdict: Verdict = {
      ...{ ...judged, lines, champion, candidate },
      admitted:
        judged.admitted && audit?.frozen !== true && constrained.every(({ hard, met }) => !hard || met === true),
      ...(audit && { audit }),
      ...(constrained.length > 0 && { constraints: constrained }),
    };
    const declared = {
      round: round.id,
      what: 'gate',
      why: 'whether the candidate is let through depends on held-out users, who are never trained on',
    };
    if (verdict.admitted)
      return {
        to: 'admitted',
        verdict,
        commit: async tx => {
          await declare(tx, declared);
          return {};
        },
      };
    return {
      to: 'rejected',
      verdict,
      work: { measured: { champion, candidate } },
      commit: async tx => {
        await declare(tx, declared);
        const version = await ports.registry.createVersion(tx, ports.artifacts, {
          name: ports.settings.name,
          manifest,
          parent: round.parent,
          round: round.id,
          epsilon: round.epsilon,
          evaluation: candidate,
          state: 'rejected',
        });
        return { candidate: version.n };
      },
    };
  };
}

/** The new version and the alias that names it, in the transaction that ends the round: there is never one without the other. */
export function publishStep(ports: RoundPorts): Step {
  return async round => {
    const { measured, manifest } = workOf(round);
    if (!measured || !manifest) throw new LearndError('internal', 'the round has nothing to publish');
    return {
      to: 'published',
      work: { measured: { champion: measured.champion, candidate: measured.candidate } },
      commit: async tx => {
        const version = await ports.registry.createVersion(tx, ports.artifacts, {
          name: ports.settings.name,
          manifest,
          parent: round.parent,
          round: round.id,
          epsilon: round.epsilon,
          evaluation: measured.candidate,
        });
        await ports.seedMonitor(tx, version.n, measured.seed);
        await ports.registry.promoteIn(tx, { version: version.n, reason: round.reason, fence: ports.fence });
        return { candidate: version.n };
      },
    };
  };
}
