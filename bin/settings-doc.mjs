#!/usr/bin/env node
// Writes docs/settings.md from the schema that validates; `--check` fails when the file is stale.
import { readFileSync, writeFileSync } from 'node:fs';
import { register } from 'tsx/esm/api';

register();
const { environmentName, settingsJsonSchema } = await import('../src/base/settings.ts');

function rows(node, prefix = '') {
  return Object.entries(node.properties ?? {}).flatMap(([key, child]) => {
    const path = prefix ? `${prefix}.${key}` : key;
    if (child.properties) return rows(child, path);
    const kind = child.enum ? child.enum.join(' \\| ') : child.type === 'array' ? 'list' : (child.type ?? 'any');
    const fallback = child.default === undefined ? '' : `\`${JSON.stringify(child.default)}\``;
    return [`| \`${path}\` | \`${environmentName(path)}\` | ${kind} | ${fallback} | ${child.description ?? ''} |`];
  });
}

const text = `# Settings

Made from the schema by \`node bin/settings-doc.mjs\`; a test fails when it is stale. Defaults < file < environment < command line. An unknown key is an
error that names the line. Lists in the environment: \`kafka.brokers\` and \`roles\` separated by commas, \`tasks\` and \`sources\` as JSON. Well-known names also work:
\`DATABASE_URL\`, \`KAFKA_BROKERS\`, \`ARTIFACTS_URL\`, \`OTEL_EXPORTER_OTLP_ENDPOINT\`; the data directory is \`--data\` or \`LEARND_DATA\` (default \`data\`), the
settings file \`--config\` or \`LEARND_CONFIG\`, the cache of bases and native builds \`LEARND_CACHE\`.

| key | environment | kind | default | meaning |
|---|---|---|---|---|
${rows(settingsJsonSchema()).join('\n')}
`;
const file = new URL('../docs/settings.md', import.meta.url);
if (process.argv.includes('--check')) {
  if (readFileSync(file, 'utf8') !== text) {
    process.stderr.write('docs/settings.md is stale: run node bin/settings-doc.mjs\n');
    process.exit(1);
  }
} else writeFileSync(file, text);
