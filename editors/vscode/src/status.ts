// The status bar item, its menu, and the language status item. Shows what it is told; starts nothing.

import * as vscode from 'vscode';
import type { Status } from './protocol';
import { LANGUAGES, selector } from './languages';
import { type Override, enabledByBlock, extraLanguages, record, snoozeMinutes, strings } from './settings';

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

  /** Show it in the bar from now on, and in the language status of the languages that are ours now. */
  reveal(): void {
    if (!this.language) {
      this.language = vscode.languages.createLanguageStatusItem('lacuna', selector());
      this.language.name = 'Lacuna';
      this.language.command = { command: 'lacuna.menu', title: vscode.l10n.t('Menu') };
    }
    this.language.selector = selector();
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
  const document = vscode.window.activeTextEditor?.document;
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
    entries.push({ label: `$(bell-slash) ${vscode.l10n.t('Snooze for {0} minutes', snoozeMinutes())}`, command: 'lacuna.snooze' });
  }
  if (document) {
    const language = document.languageId;
    const isOff = isLanguageOff(document);
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

type Overrides = Record<string, Override>;

/** The values of a setting by level, the level that wins first. */
function levels<T>(
  found: { workspaceFolderValue?: T; workspaceValue?: T; globalValue?: T } | undefined,
): { target: vscode.ConfigurationTarget; value: T | undefined }[] {
  // where one folder is the workspace, both levels are the same file
  const isFile = vscode.workspace.workspaceFile !== undefined;
  return [
    ...(isFile ? [{ target: vscode.ConfigurationTarget.WorkspaceFolder, value: found?.workspaceFolderValue }] : []),
    { target: vscode.ConfigurationTarget.Workspace, value: found?.workspaceValue },
    { target: vscode.ConfigurationTarget.Global, value: found?.globalValue },
  ];
}

function settingsFor(document: vscode.TextDocument): vscode.WorkspaceConfiguration {
  return vscode.workspace.getConfiguration('lacuna', document);
}

function isSupported(language: string): boolean {
  return extraLanguages().includes(language) || LANGUAGES.some((one) => one === language);
}

function isLanguageOff(document: vscode.TextDocument): boolean {
  const { languageId } = document;
  const settings = settingsFor(document);
  return (
    !isSupported(languageId) ||
    strings(settings.get('disable.languages')).includes(languageId) ||
    (record<Override | undefined>(settings.get('languages'))[languageId]?.enable ?? enabledByBlock(document)) === false
  );
}

/** Change a list where it is set, or else in the user's settings. */
async function changeList(settings: vscode.WorkspaceConfiguration, name: string, change: (list: string[]) => string[]): Promise<void> {
  const level = levels(settings.inspect<string[]>(name)).find(({ value }) => value !== undefined);
  await settings.update(name, change(strings(level?.value)), level?.target ?? vscode.ConfigurationTarget.Global);
}

/** Switch one language on or off, at the level of the settings that says what it is now. */
export async function toggleLanguage(document: vscode.TextDocument): Promise<void> {
  const { languageId } = document;
  const settings = settingsFor(document);
  const isWanted = isLanguageOff(document);
  if (!isSupported(languageId)) {
    const editor = vscode.workspace.getConfiguration('lacuna.editor');
    await changeList(editor, 'extraLanguages', (list) => [...list, languageId]);
  }
  if (strings(settings.get('disable.languages')).includes(languageId)) {
    await changeList(settings, 'disable.languages', (list) => list.filter((one) => one !== languageId));
  }
  const all = levels(settings.inspect<Overrides>('languages')).map(({ target, value }) => ({ target, value: record<Override>(value) }));
  const saying = all.filter(({ value }) => value[languageId]?.enable !== undefined);
  const byDefault = enabledByBlock(document) ?? true;
  if (isWanted === (saying[0]?.value[languageId]?.enable ?? byDefault)) {
    return;
  }
  const { target, value } = saying[0] ?? { target: vscode.ConfigurationTarget.Global, value: all.at(-1)?.value ?? {} };
  const entry = { ...value[languageId], enable: isWanted };
  if (isWanted && byDefault && saying[1]?.value[languageId]?.enable !== false) {
    // what is on by default need not be said, unless a weaker level or the language's own block says otherwise
    delete (entry as { enable?: boolean }).enable;
  }
  const others = Object.entries(value).filter(([id]) => id !== languageId);
  const changed = Object.fromEntries(Object.keys(entry).length > 0 ? [...others, [languageId, entry]] : others);
  await settings.update('languages', changed, target);
}
