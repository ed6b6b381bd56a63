// The status bar item, its menu, and the language status item. Shows what it is told; starts nothing.

import * as vscode from 'vscode';
import type { Status } from './protocol';
import { selector } from './languages';

export interface Shown extends Status {
  /** Why there is no server, when there is none. */
  isMissing?: boolean;
  /** Milliseconds since the epoch until which Lacuna keeps quiet. */
  snoozedUntil?: number;
}

const ICONS = { normal: '$(sparkle)', busy: '$(loading~spin)', warning: '$(warning)', error: '$(error)', inactive: '$(circle-slash)' };

export class StatusItems implements vscode.Disposable {
  private readonly bar: vscode.StatusBarItem;
  private language: vscode.LanguageStatusItem | undefined;
  private shown: Shown = { kind: 'inactive', message: vscode.l10n.t('no supported file is open') };

  constructor() {
    this.bar = vscode.window.createStatusBarItem('lacuna.status', vscode.StatusBarAlignment.Right, 99);
    this.bar.name = 'Lacuna';
    this.bar.command = 'lacuna.menu';
  }

  get current(): Shown {
    return this.shown;
  }

  /** Show it in the bar from now on. */
  reveal(): void {
    if (!this.language) {
      this.language = vscode.languages.createLanguageStatusItem('lacuna', selector());
      this.language.name = 'Lacuna';
      this.language.command = { command: 'lacuna.menu', title: vscode.l10n.t('Menu') };
    }
    this.render();
    this.bar.show();
  }

  update(change: Partial<Shown>): void {
    this.shown = { ...this.shown, ...change };
    this.render();
  }

  /** One line for people. */
  summary(): string {
    const { message, model, device, lastLatencyMs } = this.shown;
    const parts = [message, model, device, lastLatencyMs ? vscode.l10n.t('{0} ms', lastLatencyMs.toFixed(0)) : ''];
    return parts.filter((part) => part !== undefined && part !== null && part !== '').join(' · ');
  }

  isSnoozed(): boolean {
    return (this.shown.snoozedUntil ?? 0) > Date.now();
  }

  private render(): void {
    const { kind } = this.shown;
    const icon = this.isSnoozed() ? '$(bell-slash)' : ICONS[kind];
    this.bar.text = `${icon} Lacuna`;
    const tooltip = this.isSnoozed() ? vscode.l10n.t('snoozed') : this.summary();
    this.bar.tooltip = `Lacuna: ${tooltip}`;
    this.bar.accessibilityInformation = { label: `Lacuna, ${tooltip}` };
    this.bar.backgroundColor =
      kind === 'error'
        ? new vscode.ThemeColor('statusBarItem.errorBackground')
        : kind === 'warning'
          ? new vscode.ThemeColor('statusBarItem.warningBackground')
          : undefined;
    if (this.language) {
      this.language.text = `Lacuna: ${kind}`;
      this.language.detail = this.summary();
      this.language.busy = kind === 'busy';
      this.language.severity =
        kind === 'error'
          ? vscode.LanguageStatusSeverity.Error
          : kind === 'warning'
            ? vscode.LanguageStatusSeverity.Warning
            : vscode.LanguageStatusSeverity.Information;
    }
  }

  dispose(): void {
    this.bar.dispose();
    this.language?.dispose();
  }
}

interface Entry extends vscode.QuickPickItem {
  command?: string;
}

export async function showMenu(status: StatusItems, isRunning: boolean): Promise<void> {
  const now = status.current;
  const language = vscode.window.activeTextEditor?.document.languageId;
  const entries: Entry[] = [
    { label: `$(info) ${now.kind}`, description: status.summary(), command: isRunning ? 'lacuna.showLog' : 'lacuna.restart' },
    { label: '', kind: vscode.QuickPickItemKind.Separator },
  ];
  if (now.isMissing) {
    entries.push({ label: `$(cloud-download) ${vscode.l10n.t('Install the server')}`, command: 'lacuna.install' });
  }
  if (now.isPaused || status.isSnoozed()) {
    entries.push({ label: `$(play) ${vscode.l10n.t('Resume')}`, command: 'lacuna.resume' });
  } else {
    entries.push({ label: `$(debug-pause) ${vscode.l10n.t('Pause')}`, command: 'lacuna.pause' });
    const minutes = vscode.workspace.getConfiguration('lacuna.editor').get<number>('snoozeMinutes', 5);
    entries.push({ label: `$(bell-slash) ${vscode.l10n.t('Snooze for {0} minutes', minutes)}`, command: 'lacuna.snooze' });
  }
  if (language) {
    const isOff = isLanguageOff(language);
    const label = isOff ? vscode.l10n.t('Enable for {0}', language) : vscode.l10n.t('Disable for {0}', language);
    entries.push({ label: `$(code) ${label}`, command: 'lacuna.toggleLanguage' });
  }
  entries.push(
    { label: `$(output) ${vscode.l10n.t('Open log')}`, command: 'lacuna.showLog' },
    { label: `$(clear-all) ${vscode.l10n.t('Unload the model')}`, command: 'lacuna.unload' },
    { label: `$(debug-restart) ${vscode.l10n.t('Restart the server')}`, command: 'lacuna.restart' },
    { label: `$(gear) ${vscode.l10n.t('Settings')}`, command: 'lacuna.openSettings' },
  );
  const choice = await vscode.window.showQuickPick(entries, { title: 'Lacuna', placeHolder: status.summary() });
  if (choice?.command === 'lacuna.openSettings') {
    await vscode.commands.executeCommand('workbench.action.openSettings', '@ext:lacuna.lacuna');
  } else if (choice?.command) {
    await vscode.commands.executeCommand(choice.command);
  }
}

type Overrides = Record<string, { enable?: boolean } & Record<string, unknown>>;

export function isLanguageOff(language: string): boolean {
  const overrides = vscode.workspace.getConfiguration('lacuna').get<Overrides>('languages', {});
  return overrides[language]?.enable === false;
}

/** Write the override of one language into the user's settings. */
export async function toggleLanguage(language: string): Promise<void> {
  const settings = vscode.workspace.getConfiguration('lacuna');
  const overrides: Overrides = settings.inspect<Overrides>('languages')?.globalValue ?? {};
  const { enable: before, ...rest } = overrides[language] ?? {};
  const changed: Overrides = Object.fromEntries(Object.entries(overrides).filter(([id]) => id !== language));
  if (before !== false) {
    changed[language] = { ...rest, enable: false };
  } else if (Object.keys(rest).length > 0) {
    changed[language] = rest;
  }
  await settings.update('languages', changed, vscode.ConfigurationTarget.Global);
}
