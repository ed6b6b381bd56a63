// Installs the server into an environment of our own, after the user has agreed; every line goes to the log.

import { spawn } from 'node:child_process';
import * as path from 'node:path';
import * as vscode from 'vscode';
import { onPath, privateEnvironment } from './find';

function run(command: string, args: string[], log: vscode.LogOutputChannel, token: vscode.CancellationToken): Promise<void> {
  log.info(`$ ${[command, ...args].join(' ')}`);
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ['ignore', 'pipe', 'pipe'], windowsHide: true });
    const cancel = token.onCancellationRequested(() => child.kill());
    let last = '';
    const write = (chunk: Buffer): void => {
      for (const line of chunk.toString().split(/\r?\n/).filter((one) => one !== '')) {
        log.info(line);
        last = line;
      }
    };
    child.stdout.on('data', write);
    child.stderr.on('data', write);
    child.on('error', reject);
    child.on('close', (code) => {
      cancel.dispose();
      if (code === 0) {
        resolve();
      } else {
        reject(new Error(last || vscode.l10n.t('{0} ended with code {1}', command, String(code))));
      }
    });
  });
}

function findPython(): string | undefined {
  // python.org's installer for Windows leaves only its launcher on the path
  return process.platform === 'win32' ? onPath('py.exe', 'python.exe') : onPath('python3', 'python');
}

/** True when the server was installed. */
export async function installServer(context: vscode.ExtensionContext, log: vscode.LogOutputChannel): Promise<boolean> {
  const folder = privateEnvironment(context);
  const source = vscode.workspace.getConfiguration('lacuna.server').get<string>('package', 'lacuna-ls');
  const yes = vscode.l10n.t('Install');
  const answer = await vscode.window.showInformationMessage(
    vscode.l10n.t('Install the Lacuna server?'),
    {
      modal: true,
      detail: vscode.l10n.t(
        'pip downloads {0} and what it needs (PyTorch among it) into an environment of its own:\n{1}',
        source,
        folder,
      ),
    },
    yes,
  );
  if (answer !== yes) {
    return false;
  }
  const python = findPython();
  if (!python) {
    void vscode.window.showErrorMessage(vscode.l10n.t('No Python found on PATH. Lacuna needs Python 3.11 or newer.'));
    return false;
  }
  const inside = path.join(folder, process.platform === 'win32' ? 'Scripts\\python.exe' : 'bin/python');
  try {
    await vscode.window.withProgress(
      { location: vscode.ProgressLocation.Notification, title: vscode.l10n.t('Installing Lacuna'), cancellable: true },
      async (progress, token) => {
        progress.report({ message: vscode.l10n.t('creating the environment') });
        await run(python, ['-m', 'venv', folder], log, token);
        progress.report({ message: vscode.l10n.t('downloading and installing {0}', source) });
        await run(inside, ['-m', 'pip', 'install', '--disable-pip-version-check', '--upgrade', source], log, token);
      },
    );
  } catch (error) {
    const show = vscode.l10n.t('Open Log');
    const reason = error instanceof Error ? error.message : String(error);
    log.error(reason);
    void vscode.window.showErrorMessage(vscode.l10n.t('Installing Lacuna failed: {0}', reason), show).then((choice) => {
      if (choice === show) {
        log.show();
      }
    });
    return false;
  }
  log.info(`installed into ${folder}`);
  return true;
}
