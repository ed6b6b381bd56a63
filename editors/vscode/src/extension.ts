// What every window loads: commands, the status bar, and the wait for a file of ours. Knows no language client.

import * as vscode from 'vscode';
import { installServer } from './install';
import { isOurs } from './languages';
import * as protocol from './protocol';
import type * as sessionModule from './session';
import { snoozeMinutes } from './settings';
import { StatusItems, showMenu, toggleLanguage } from './status';

const MENU_WAIT_MS = 300;

let session: sessionModule.Session | undefined;

export function activate(context: vscode.ExtensionContext): void {
  const log = vscode.window.createOutputChannel('Lacuna', { log: true });
  const status = new StatusItems();
  context.subscriptions.push(log, status);

  const open = (): sessionModule.Session => {
    if (!session) {
      status.reveal();
      // loaded here and not above: a window without a file of ours never reads it
      // eslint-disable-next-line @typescript-eslint/no-require-imports
      const { Session } = require('./session') as typeof sessionModule;
      session = new Session(context, log, status);
      context.subscriptions.push(session);
      void session.restart();
    }
    return session;
  };

  const notice = (document: vscode.TextDocument): void => {
    if (isOurs(document)) {
      open();
    }
  };
  context.subscriptions.push(
    vscode.workspace.onDidOpenTextDocument(notice),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration('lacuna.editor.extraLanguages')) {
        vscode.workspace.textDocuments.forEach(notice);
      }
    }),
  );
  vscode.workspace.textDocuments.forEach(notice);

  const builtin = (command: string) => () => vscode.commands.executeCommand(command);
  let wake: NodeJS.Timeout | undefined;
  const quiet = (until: number): void => {
    clearTimeout(wake);
    status.update({ snoozedUntil: until });
    if (until > 0) {
      wake = setTimeout(() => quiet(0), until - Date.now());
      void vscode.commands.executeCommand('editor.action.inlineSuggest.hide');
    }
  };
  context.subscriptions.push({ dispose: () => clearTimeout(wake) });

  const control = (method: string): unknown =>
    session
      ? session.control(method)
      : vscode.window.showInformationMessage(vscode.l10n.t('Lacuna: the server is not running.'));

  const commands: Record<string, () => unknown> = {
    'lacuna.menu': async () => {
      // the server tells its latency now and then; the menu shows the last one, and waits for no busy server
      if (session?.isRunning) {
        const enough = new Promise<void>((resolve) => setTimeout(resolve, MENU_WAIT_MS));
        await Promise.race([session.control(protocol.STATUS), enough]);
      }
      await showMenu(status, session?.isRunning ?? false);
    },
    'lacuna.acceptProposal': builtin('editor.action.inlineSuggest.commit'),
    'lacuna.acceptWord': builtin('editor.action.inlineSuggest.acceptNextWord'),
    'lacuna.acceptLine': builtin('editor.action.inlineSuggest.acceptNextLine'),
    'lacuna.next': builtin('editor.action.inlineSuggest.showNext'),
    'lacuna.previous': builtin('editor.action.inlineSuggest.showPrevious'),
    'lacuna.trigger': builtin('editor.action.inlineSuggest.trigger'),
    'lacuna.fillHole': () => open().edit(protocol.FILL_HOLE_KIND, vscode.l10n.t('Lacuna: no hole here.')),
    'lacuna.fillAllHoles': () => open().edit(protocol.FILL_ALL_KIND, vscode.l10n.t('Lacuna: no holes in this file.')),
    'lacuna.rewrite': () => open().edit(protocol.REWRITE_KIND, vscode.l10n.t('Lacuna: select what to rewrite.')),
    'lacuna.rewriteWithInstruction': () =>
      open().edit(protocol.REWRITE_KIND, vscode.l10n.t('Lacuna: select what to rewrite.'), () =>
        vscode.window.showInputBox({
          title: vscode.l10n.t('Rewrite the selection'),
          prompt: vscode.l10n.t('What should change?'),
          ignoreFocusOut: true,
        }),
      ),
    'lacuna.repair': () => open().edit(protocol.REPAIR_KIND, vscode.l10n.t('Lacuna: no syntax error here.')),
    'lacuna.nextEdit': () => open().nextEdit(),
    'lacuna.acceptEdit': () => session?.acceptEdit(),
    'lacuna.refuseEdit': () => session?.refuseEdit(),
    'lacuna.pause': () => control(protocol.PAUSE),
    'lacuna.resume': () => {
      quiet(0);
      return session?.control(protocol.RESUME);
    },
    'lacuna.snooze': () => {
      quiet(Date.now() + snoozeMinutes() * 60_000);
    },
    'lacuna.toggleLanguage': async () => {
      const document = vscode.window.activeTextEditor?.document;
      if (document) {
        await toggleLanguage(document);
      } else {
        void vscode.window.showInformationMessage(vscode.l10n.t('Lacuna: no file is open.'));
      }
    },
    'lacuna.unload': () => control(protocol.UNLOAD),
    'lacuna.restart': () => (session ? session.restart() : open()),
    'lacuna.showLog': () => log.show(),
    'lacuna.install': async () => {
      if (await installServer(context, log)) {
        await (session ? session.restart() : open());
      }
    },
  };
  for (const [name, run] of Object.entries(commands)) {
    context.subscriptions.push(vscode.commands.registerCommand(name, run));
  }
}

export async function deactivate(): Promise<void> {
  await session?.end();
}
