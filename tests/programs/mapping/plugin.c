/* A library that is loaded while a program runs. */
int answer(void);

int answer(void)
{
    return 42;
}
