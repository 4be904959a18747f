import {
  type Attributes,
  type Context,
  context,
  metrics,
  propagation,
  ROOT_CONTEXT,
  type Span,
  SpanStatusCode,
  trace,
} from '@opentelemetry/api';
import { OTLPMetricExporter } from '@opentelemetry/exporter-metrics-otlp-http';
import { PrometheusExporter, PrometheusSerializer } from '@opentelemetry/exporter-prometheus';
import { OTLPTraceExporter } from '@opentelemetry/exporter-trace-otlp-http';
import { resourceFromAttributes } from '@opentelemetry/resources';
import { type IMetricReader, PeriodicExportingMetricReader } from '@opentelemetry/sdk-metrics';
import { NodeSDK } from '@opentelemetry/sdk-node';
import { BatchSpanProcessor, type SpanExporter, type SpanProcessor } from '@opentelemetry/sdk-trace-node';

/**
 * Traces and metrics through OpenTelemetry's sdk-node. Metrics are always readable as Prometheus text (`metricsText`); with an
 * OTLP endpoint both traces and metrics are also sent there. No private text is ever put in an attribute.
 */
export interface Telemetry {
  /** The Prometheus exposition of every instrument. */
  metricsText(): Promise<string>;
  close(): Promise<void>;
}

export interface TelemetryOptions {
  service: string;
  otlpEndpoint?: string | undefined;
  /** For tests: where finished spans go. */
  spanExporter?: SpanExporter;
}

export function startTelemetry(options: TelemetryOptions): Telemetry {
  const prometheus = new PrometheusExporter({ preventServerStart: true });
  const readers: IMetricReader[] = [prometheus];
  const base = options.otlpEndpoint?.replace(/\/+$/, '');
  if (base !== undefined) {
    readers.push(
      new PeriodicExportingMetricReader({ exporter: new OTLPMetricExporter({ url: `${base}/v1/metrics` }) }),
    );
  }
  const exporter =
    options.spanExporter ?? (base === undefined ? undefined : new OTLPTraceExporter({ url: `${base}/v1/traces` }));
  const sdk = new NodeSDK({
    resource: resourceFromAttributes({ 'service.name': options.service }),
    autoDetectResources: false,
    metricReaders: readers,
    spanProcessors: [exporter ? new BatchSpanProcessor(exporter) : UNSENT],
    logRecordProcessors: [],
    instrumentations: [],
  });
  sdk.start();
  return {
    async metricsText() {
      const { resourceMetrics } = await prometheus.collect();
      return new PrometheusSerializer().serialize(resourceMetrics);
    },
    // An unreachable collector must not hold up or fail a stop.
    close: () => sdk.shutdown().catch(() => undefined),
  };
}

/** Without a processor the SDK registers no tracer, and rows would lose their trace ids: spans are made, and sent nowhere. */
const UNSENT: SpanProcessor = {
  onStart: () => undefined,
  onEnd: () => undefined,
  forceFlush: () => Promise.resolve(),
  shutdown: () => Promise.resolve(),
};

const NAME = 'learnd';

export const meter = () => metrics.getMeter(NAME);

/** Runs `work` in a span; an error is recorded by its class, not its text. */
export async function withSpan<T>(
  name: string,
  attributes: Attributes,
  work: (span: Span) => Promise<T>,
  parent: Context = context.active(),
): Promise<T> {
  return trace.getTracer(NAME).startActiveSpan(name, { attributes }, parent, async span => {
    try {
      return await work(span);
    } catch (error) {
      span.setStatus({ code: SpanStatusCode.ERROR, message: error instanceof Error ? error.name : 'error' });
      throw error;
    } finally {
      span.end();
    }
  });
}

/** The W3C traceparent of the span in force, for a row or a message; undefined outside a span. */
export function currentTraceParent(): string | undefined {
  const carrier: Record<string, string> = {};
  propagation.inject(context.active(), carrier);
  return carrier.traceparent;
}

/** The context that a stored traceparent names, to go on with the same trace in another process or at another time. */
export function contextFrom(traceParent: string | null | undefined): Context {
  return traceParent ? propagation.extract(ROOT_CONTEXT, { traceparent: traceParent }) : ROOT_CONTEXT;
}
