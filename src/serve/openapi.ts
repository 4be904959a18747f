/** The OpenAPI 3.1 document, from the schemas that validate. */
import { z } from 'zod';
import { dataJsonSchemas, envelopeJsonSchema } from '../events/event.ts';
import { chatRequest, classifyRequest, responsesRequest } from './schemas.ts';

type Json = Record<string, unknown>;

interface Limits {
  readonly classify_texts: number;
  readonly label_chars: number;
  readonly text_bytes: number;
  readonly event_bytes: number;
}

const schemaOf = (schema: z.ZodType): Json => {
  const { $schema, ...json } = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' }) as Json;
  return json;
};

const jsonOf = (schema: Json): Json => ({ 'application/json': { schema } });
const reference = (name: string): Json => ({ $ref: `#/components/schemas/${name}` });

const ERRORS: ReadonlyArray<[number, string]> = [
  [400, 'Malformed; `param` names the field'],
  [401, 'No key, or an unknown one'],
  [403, 'The key lacks the scope'],
  [404, 'Unknown model or path'],
  [413, 'Too large'],
  [429, 'Busy; see retry-after'],
  [503, 'Not ready'],
];

function operation(summary: string, scope: string, request: Json, ok: Json, stream = false): Json {
  const errors = ERRORS.map(([status, description]) => [status, { description, content: jsonOf(reference('Error')) }]);
  return {
    summary,
    security: [{ key: [] }],
    'x-scope': scope,
    requestBody: { required: true, content: jsonOf(request) },
    responses: {
      200: { description: 'Done', content: { ...jsonOf(ok), ...(stream && { 'text/event-stream': { schema: {} } }) } },
      ...Object.fromEntries(errors),
    },
  };
}

const open = (summary: string, type = 'application/json'): Json => ({
  summary,
  security: [],
  responses: { 200: { description: 'Done', content: { [type]: { schema: {} } } } },
});

export function openApi(limits: Limits): Json {
  const data = dataJsonSchemas(limits) as unknown as Record<string, Json>;
  const events = (types: (type: string) => boolean): Json => {
    const any = {
      anyOf: Object.keys(data)
        .filter(types)
        .map(type => reference(type)),
    };
    return { anyOf: [any, { type: 'array', items: any }] };
  };
  const eventSchemas = Object.fromEntries(
    Object.entries(data).map(([type, { $schema, ...schema }]) => {
      const { $schema: _, ...envelope } = envelopeJsonSchema() as Json & { properties: Json };
      const properties = { ...(envelope.properties as Json), type: { const: type }, data: schema };
      return [type, { ...envelope, properties }];
    }),
  );
  const object: Json = { type: 'object' };
  return {
    openapi: '3.1.0',
    info: { title: 'learnd', version: '1', description: 'Answers, classifications and events of one learning model.' },
    paths: {
      '/v1/responses': {
        post: operation('An answer (OpenAI Responses)', 'respond', reference('ResponsesRequest'), object, true),
        get: {
          summary: 'The same over WebSocket (upgrade)',
          security: [{ key: [] }],
          responses: { 101: { description: 'Upgraded' } },
        },
      },
      '/v1/chat/completions': {
        post: operation('An answer (OpenAI chat completions)', 'respond', reference('ChatRequest'), object, true),
      },
      '/v1/classify': {
        post: operation('Labels for texts', 'respond', reference('ClassifyRequest'), reference('Classification')),
      },
      '/v1/models': { get: { ...open('The model and its versions'), security: [{ key: [] }] } },
      '/v1/feedback': {
        post: operation(
          'Feedback events',
          'feedback',
          events(t => t.startsWith('learnd.feedback.')),
          reference('IngestReport'),
        ),
      },
      '/v1/documents': {
        post: operation(
          'Document events',
          'feedback',
          events(t => t === 'learnd.document'),
          reference('IngestReport'),
        ),
      },
      '/v1/erasures': {
        post: operation(
          'Erasure events',
          'admin',
          events(t => t === 'learnd.erasure'),
          reference('IngestReport'),
        ),
      },
      '/healthz': { get: open('The process lives') },
      '/readyz': { get: open('The champion can answer and events can be stored') },
      '/metrics': { get: open('Prometheus metrics', 'text/plain') },
    },
    components: {
      securitySchemes: { key: { type: 'http', scheme: 'bearer' } },
      schemas: {
        ResponsesRequest: schemaOf(responsesRequest),
        ChatRequest: schemaOf(chatRequest),
        ClassifyRequest: schemaOf(classifyRequest(limits)),
        Classification: schemaOf(
          z.object({
            model: z.string(),
            results: z.array(z.object({ label: z.string(), scores: z.record(z.string(), z.number()) })),
          }),
        ),
        IngestReport: schemaOf(
          z.object({
            accepted: z.number().int(),
            duplicates: z.number().int(),
            rejected: z.array(z.object({ index: z.number().int(), field: z.string(), reason: z.string() })),
          }),
        ),
        Error: schemaOf(
          z.object({
            error: z.object({ message: z.string(), type: z.string(), code: z.string(), param: z.string().nullable() }),
          }),
        ),
        ...eventSchemas,
      },
    },
  };
}
