# The Makefile's twin for Windows: .\make.ps1 demo | test | soak | lint | docs | setup | clean | help
# -Python another interpreter, -ExtraIndex one more package index, -PytestArgs more arguments for pytest.
param(
    [Parameter(Position = 0)]
    [ValidateSet('help', 'setup', 'demo', 'test', 'soak', 'lint', 'docs', 'clean')]
    [string]$Target = 'help',
    [string]$Python = $env:PYTHON,
    [string]$ExtraIndex = $env:EXTRA_INDEX,
    [string[]]$PytestArgs = @()
)
$ErrorActionPreference = 'Stop'
Set-Location -LiteralPath $PSScriptRoot
$Venv = '.venv'
$Bin = Join-Path $Venv 'Scripts'
$VenvPython = Join-Path $Bin 'python.exe'

# Native programs do not throw in Windows PowerShell: their exit code must be looked at.
function Invoke-Checked([string]$Program, [string[]]$Arguments) {
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0) { exit $LASTEXITCODE }
}

function Find-Python {
    $candidates = if ($Python) { @($Python) } else { @('py', 'python', 'python3') }
    foreach ($name in $candidates) {
        if (Get-Command $name -ErrorAction SilentlyContinue) {
            # The Store's stub for `python` exits with an error, so it is passed over too.
            & $name -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>$null
            if ($LASTEXITCODE -eq 0) { return $name }
        }
    }
    Write-Host 'OpenTar needs Python 3.11 or newer and found none; install it, or say -Python PATH'
    exit 1
}

function Test-Fresh([string]$Stamp) {
    if (-not (Test-Path $Stamp)) { return $false }
    $made = (Get-Item $Stamp -Force).LastWriteTimeUtc
    foreach ($file in 'pyproject.toml', 'constraints.txt') {
        if ((Get-Item $file).LastWriteTimeUtc -gt $made) { return $false }
    }
    return $true
}

function Install-Project([string]$What, [string[]]$Stamps) {
    if (Test-Fresh $Stamps[0]) { return }
    if (-not (Test-Path $VenvPython)) { Invoke-Checked (Find-Python) @('-m', 'venv', $Venv) }
    Write-Host "setting up ${Venv}: this downloads PyTorch once"
    $arguments = @('-m', 'pip', '--disable-pip-version-check', 'install', '--quiet', '-c', 'constraints.txt')
    if ($ExtraIndex) { $arguments += @('--extra-index-url', $ExtraIndex) }
    Invoke-Checked $VenvPython ($arguments + @('-e', $What))
    foreach ($stamp in $Stamps) { Set-Content -Path $stamp -Value '' }
}

function Install-Base { Install-Project '.' @("$Venv/.base") }
function Install-Dev { Install-Project '.[dev]' @("$Venv/.dev", "$Venv/.base") }

switch ($Target) {
    'help' { Get-Content $PSCommandPath -TotalCount 2 }
    'setup' { Install-Dev }
    'demo' { Install-Base; Invoke-Checked (Join-Path $Bin 'opentar.exe') @('demo') }
    'test' { Install-Dev; Invoke-Checked $VenvPython (@('-m', 'pytest', '-n', 'auto', '-m', 'not slow') + $PytestArgs) }
    'soak' { Install-Dev; Invoke-Checked $VenvPython (@('-m', 'pytest', '-m', 'slow') + $PytestArgs) }
    'lint' {
        Install-Dev
        Invoke-Checked (Join-Path $Bin 'ruff.exe') @('check', '.')
        Invoke-Checked (Join-Path $Bin 'ruff.exe') @('format', '--check', '.')
        Invoke-Checked (Join-Path $Bin 'mypy.exe') @()
        Invoke-Checked (Join-Path $Bin 'lint-imports.exe') @()
    }
    'docs' { Install-Dev; Invoke-Checked $VenvPython (@('-m', 'pytest', 'tests/docs') + $PytestArgs) }
    'clean' {
        foreach ($folder in $Venv, '.mypy_cache', '.pytest_cache', '.ruff_cache', '.import_linter_cache') {
            if (Test-Path $folder) { Remove-Item -Recurse -Force $folder }
        }
    }
}
