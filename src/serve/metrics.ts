import type { Attributes, ObservableResult } from '@opentelemetry/api';
import { meter } from '../base/telemetry.ts';
import type { Served } from './ports.ts';

/** Figures read when somebody asks for them. */
export interface Gauges {
  /** Signal name to value; null and booleans included. */
  signals(): Promise<Readonly<Record<string, number | boolean | null>>>;
  lag(): Promise<number | undefined>;
  championNumber(): Promise<number | undefined>;
}

/** Every instrument of the daemon. Names follow Prometheus; nothing private and nothing unbounded is ever a label. */
export function daemonMetrics(gauges: () => Gauges | undefined): { served(served: Served): void } {
  const m = meter();
  const answers = m.createCounter('learnd_answers', { description: 'Answers and classifications given' });
  const tokens = m.createCounter('learnd_output_tokens', { description: 'Tokens generated' });
  const latency = m.createHistogram('learnd_answer_duration_seconds', {
    description: 'From the request to the end of its answer',
    unit: 's',
    advice: { explicitBucketBoundaries: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30] },
  });
  const firstToken = m.createHistogram('learnd_first_token_seconds', {
    description: 'From the request to the first token',
    unit: 's',
    advice: { explicitBucketBoundaries: [0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10] },
  });
  const observe = (
    name: string,
    description: string,
    read: (result: ObservableResult, at: Gauges) => Promise<void>,
  ): void => {
    m.createObservableGauge(name, { description }).addCallback(async result => {
      const at = gauges();
      if (at !== undefined) await read(result, at);
    });
  };
  observe('learnd_signal', 'Signals of the policy engine (true is 1)', async (result, at) => {
    for (const [signal, value] of Object.entries(await at.signals())) {
      if (value !== null) result.observe(Number(value), { signal });
    }
  });
  observe('learnd_champion_version', 'Number of the version that answers', async (result, at) => {
    const n = await at.championNumber();
    if (n !== undefined) result.observe(n);
  });
  observe('learnd_kafka_lag', 'Messages not yet consumed, all topics', async (result, at) => {
    const lag = await at.lag();
    if (lag !== undefined) result.observe(lag);
  });
  return {
    served(served) {
      const outcome = served.error !== undefined ? 'error' : served.cancelled ? 'cancelled' : 'ok';
      const labels: Attributes = { kind: served.kind, version: served.version, outcome };
      answers.add(1, labels);
      tokens.add(served.outputTokens, { version: served.version });
      latency.record(served.latencyMs / 1000, { kind: served.kind });
      if (served.firstTokenMs !== undefined) firstToken.record(served.firstTokenMs / 1000, { kind: served.kind });
    },
  };
}
