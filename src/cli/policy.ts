import { readFileSync } from 'node:fs';
import { invalid } from '../base/errors.ts';
import { loadSettings } from '../base/settings.ts';
import { policyCheck, showFinding } from '../loop/policy/parse.ts';
import type { Finding } from '../loop/policy/source.ts';

export interface PolicyReport {
  readonly file: string;
  readonly valid: boolean;
  readonly rules: readonly string[];
  /** Mistakes and warnings, in the order of the text; lines and columns from 1. */
  readonly findings: readonly Finding[];
  /** What holds where the file says nothing. */
  readonly defaults: Readonly<Record<string, unknown>>;
}

/**
 * `policy check F`.
 * @param input.config - settings with the tasks and sources to check against; default: config/learnd.yaml where there is one.
 */
export async function run(input: { file: string; config?: string | undefined }): Promise<PolicyReport> {
  let text: string;
  try {
    text = readFileSync(input.file, 'utf8');
  } catch (cause) {
    throw invalid('file', `cannot read the policy file ${input.file}: ${(cause as Error).message}`, { cause });
  }
  const checked = policyCheck(text, { settings: loadSettings({ file: input.config }) });
  return {
    file: input.file,
    valid: checked.valid,
    rules: checked.policy?.rules.map(rule => rule.name) ?? [],
    findings: checked.findings,
    defaults: checked.defaults,
  };
}

export function human(report: PolicyReport): string {
  const lines = report.findings.map(finding => showFinding(report.file, finding));
  const errors = report.findings.filter(f => f.severity === 'error').length;
  lines.push(
    report.valid
      ? `${report.file}: valid, ${report.rules.length} ${report.rules.length === 1 ? 'rule' : 'rules'}${report.rules.length > 0 ? ` (${report.rules.join(', ')})` : ''}`
      : `${report.file}: ${errors} ${errors === 1 ? 'mistake' : 'mistakes'}`,
  );
  lines.push('Where the file says nothing:');
  for (const [key, value] of Object.entries(report.defaults)) lines.push(`  ${key}: ${JSON.stringify(value)}`);
  return lines.join('\n');
}
