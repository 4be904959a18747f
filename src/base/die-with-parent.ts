import { spawnSync } from 'node:child_process';

/**
 * Options for `fork` with which the kernel ends the child the moment this process dies, however it dies. Without it a child
 * notices only between two of its own turns: one inside a long native step goes on for minutes. util-linux's setpriv execs, so
 * the child's pid stays its own; where it is missing (macOS, small images) the child ends at its next turn instead.
 * The kernel watches the thread that forks, so fork from the main thread.
 */
export function dieWithParent(execArgv: readonly string[]): { execPath?: string; execArgv: string[] } {
  works ??=
    process.platform === 'linux' &&
    spawnSync('setpriv', [...PREFIX, 'true'], { stdio: 'ignore', timeout: 5_000 }).status === 0;
  return works
    ? { execPath: 'setpriv', execArgv: [...PREFIX, process.execPath, ...execArgv] }
    : { execArgv: [...execArgv] };
}

const PREFIX = ['--pdeathsig', 'KILL', '--'];
let works: boolean | undefined;
