/* libcurand: the provider is linked with it and calls none of its functions. */
int curandGetVersion(int *version)
{
    *version = 10400;
    return 0;
}
